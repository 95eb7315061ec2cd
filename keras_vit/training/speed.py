"""How fast a training is: images a second, and how much of the device that uses."""

import re
import time

import keras

from keras_vit.layers.trainable import get_trainable
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.cost import count_multiply_adds
from keras_vit.models.pixel_model import network_of

# A device's name -> 10^12 operations a second in bfloat16 or float16, dense, of the makers' data
# sheets.  JAX calls a core a device on the TPUs of two cores a chip that it does not join (v2, v3).
PEAKS = {
    r"TPU v2": 22.5,
    r"TPU v3": 61.5,
    r"TPU v4": 275.0,
    r"TPU v5 ?lite|TPU v5e": 197.0,
    r"TPU v5p?$": 459.0,
    r"TPU v6 ?lite|TPU v6e": 918.0,
    r"H[12]00.*PCIe": 756.0,
    r"H100|H200": 989.0,
    r"A100": 312.0,
    r"L40S": 362.0,
    r"\bL4\b": 121.0,
    r"V100": 125.0,
    r"\bT4\b": 65.0,
}


class Speed(keras.callbacks.Callback):
    """Adds to the logs of each report how fast its steps were; put it before what measures.

    | key | |
    |---|---|
    | `images_per_second` | in the steps of the report but its first, which may be compiled |
    | `waiting_share` | of the time so far, what went by in waiting for data |
    | `flop_utilisation` | operations of the model (none that are computed twice) over the peak |

    A key of which nothing is known is left out: the first of a report of one step, the second
    without `waiting`, the third without `operations` or `peak`.

    Args:
        batch_size: Images in a step.
        waiting: `keras_vit.data.input_wait.WaitingShare` over the data, or None.
        operations: Floating-point operations of a step for one image, or None.
        peak: Operations a second of all devices together, or None.
    """

    def __init__(self, batch_size, waiting=None, operations=None, peak=None):
        super().__init__()
        self.batch_size = batch_size
        self.waiting = waiting
        self.operations = operations
        self.peak = peak

    def on_epoch_begin(self, epoch, logs=None):
        self._steps, self._start = 0, None

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        if self._start is None:
            self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if self._steps > 1:
            seconds = time.perf_counter() - self._start
            rate = (self._steps - 1) * self.batch_size / seconds
            logs["images_per_second"] = rate
            if self.operations and self.peak:
                logs["flop_utilisation"] = rate * self.operations / self.peak
        if self.waiting is not None:
            logs["waiting_share"] = self.waiting.share


def training_operations(model):
    """Floating-point operations of one image's training step.

        operations = 2 x 3 x multiply-adds of the forward pass

    Args:
        model: A model that is trained.

    Returns:
        An integer; None for a model that is no classifier of this package, or of which something is
        frozen, whose gradient takes less.
    """
    network = network_of(model)
    if not isinstance(network, ImageClassifier) or get_trainable(network):
        return None
    return 6 * count_multiply_adds(network.config)


def device_peak(dtype):
    """Operations a second of the devices of this process in a dtype.

    Args:
        dtype: What is computed in, such as "bfloat16".

    Returns:
        A float; None for float32, and for devices that `PEAKS` does not name.
    """
    if dtype not in ("bfloat16", "float16"):
        return None
    peaks = [peak_of(name) for name in _device_names()]
    return None if None in peaks or not peaks else float(sum(peaks))


def peak_of(name):
    """Operations a second of a device's name in 16 bits; None for one that is not known.

    >>> peak_of("NVIDIA A100-SXM4-40GB"), peak_of("cpu")
    (312000000000000.0, None)
    """
    return next((1e12 * peak for key, peak in PEAKS.items() if re.search(key, name)), None)


def _device_names():
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices()]
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    devices = tf.config.list_physical_devices("GPU")
    return [details(device).get("device_name", "") for device in devices]
