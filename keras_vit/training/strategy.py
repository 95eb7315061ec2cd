"""Where a training runs: one device, several of this machine, several machines, a TPU.

On the TensorFlow backend these are the strategies of `tf.distribute`, on the JAX backend those of
`keras.distribution`.  docs/distribution.md says what holds under each.

Imports nothing heavy, so that the command's help can list the strategies.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

from absl import logging

from keras_vit.training import folder
from keras_vit.training.workers import Workers, exchange_over

TENSORFLOW, JAX = "tensorflow", "jax"
# name -> the backends that have it
STRATEGIES = {
    "auto": (TENSORFLOW, JAX, "torch"),
    "cpu": (TENSORFLOW, JAX),
    "mirrored": (TENSORFLOW,),
    "multiworker": (TENSORFLOW,),
    "tpu": (TENSORFLOW,),
    "data_parallel": (JAX,),
    "model_parallel": (JAX,),
}

# Variable path -> what is split over the devices of the mesh's axis "model": the attention's heads
# (D, k, d), (k, d), (k, d, D), and the hidden layer of the MLP.
MODEL_PARALLEL_LAYOUT = {
    r".*/(query|key|value)_kernel": (None, "model", None),
    r".*/(query|key|value)_bias": ("model", None),
    r".*/out_kernel": ("model", None, None),
    r".*/mlp/dense_1/kernel": (None, "model"),
    r".*/mlp/dense_1/bias": ("model",),
    r".*/mlp/dense_2/kernel": ("model", None),
}

_ABORTED = "Collective ops is aborted by: "
_TASK = re.compile(r"/job:\w+/(?:replica:\d+/)?task:\d+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a training runs.

    Args:
        name: one of `STRATEGIES`, never `"auto"`, or `"single"`.
        num_replicas: how many parts a batch is cut into; a batch size must be a multiple of it.
        workers: the processes that train together.
        make_scope: makes the context in which a model is made, trained and evaluated.
    """

    name: str = "single"
    num_replicas: int = 1
    workers: Workers = Workers()
    make_scope: Callable[[], Any] = dataclasses.field(
        default=contextlib.nullcontext, repr=False, compare=False
    )

    @contextlib.contextmanager
    def scope(self):
        """The context in which a model is made, trained and evaluated.

        Raises:
            TrainingError: if another worker is gone.
        """
        with self.make_scope():
            if self.workers.number == 1:
                yield
                return
            import tensorflow as tf

            from keras_vit.training.callbacks import TrainingError

            try:
                yield
            except tf.errors.OpError as error:
                gone = (tf.errors.UnavailableError, tf.errors.AbortedError)
                reason, task = _collective_failure(error.message)
                if reason is None and not isinstance(error, gone):
                    raise
                raise TrainingError(
                    f"worker {self.workers.index} of {self.workers.number} lost another worker "
                    f"({task or 'TensorFlow does not say which'}) and ends too; start all of them "
                    "again, and they go on from the last state. TensorFlow says: "
                    f"{reason or type(error).__name__}"
                ) from error

    @contextlib.contextmanager
    def new_run(self, workdir, overwrite=False):
        """`folder.new_run` in the chief, the only one that writes; None in the other workers.

        Raises:
            TrainingError: in these, if the chief cannot begin.
        """
        with contextlib.ExitStack() as stack:
            temporary = None
            with self.workers.together():
                if self.workers.is_chief:
                    temporary = stack.enter_context(folder.new_run(workdir, overwrite))
            name = self.workers.gather(temporary and temporary.name)[0]
            if not (pathlib.Path(workdir) / name).exists():
                logging.warning(
                    "worker %d does not see the chief's folder %s: the run cannot be resumed "
                    "unless all workers share it, under the same path",
                    self.workers.index,
                    workdir,
                )
            yield temporary


def place(strategy=None, *, tpu=None, model_shards=2):
    """Makes ready what a strategy needs.  Call it before TensorFlow computes anything.

    Args:
        strategy: None for one device, the default one of the backend; a name of `STRATEGIES`; a
            `tf.distribute.Strategy` or a `keras.distribution` one of your own; or a `Placement`,
            which is returned.  `"auto"` is `"multiworker"` where `TF_CONFIG` names several workers,
            else `"mirrored"` or `"data_parallel"` where there are several accelerators, else one
            device.
        tpu: name or address of a Cloud TPU, for `"tpu"`; None is the TPU of this machine.
        model_shards: on how many devices `"model_parallel"` splits each block; a divisor of the
            number of devices, and of the number of heads.

    Returns:
        A `Placement`.

    Raises:
        ValueError: for an unknown strategy, one that the backend does not have, or one for which
            something is missing.
    """
    if isinstance(strategy, Placement):
        return strategy
    _check_processes()
    if strategy is None:
        return Placement()
    if not isinstance(strategy, str):
        return _of_object(strategy)
    import keras

    backend = keras.backend.backend()
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}"
        )
    if backend not in STRATEGIES[strategy]:
        able = [name for name, backends in STRATEGIES.items() if backend in backends]
        raise ValueError(
            f"the {backend} backend has the strategies {', '.join(able)}. Received: {strategy!r}, "
            f"which needs KERAS_BACKEND={STRATEGIES[strategy][0]}"
        )
    if tpu is not None and strategy != "tpu":
        raise ValueError(f"`tpu` goes with the strategy 'tpu'. Received: {tpu!r} and {strategy!r}")
    if strategy == "auto":
        strategy = _automatic(backend)
    return _MAKERS[strategy](tpu=tpu, model_shards=model_shards)


def _check_processes():
    """Raises ValueError for several processes on JAX; nothing here tells one from another."""
    import keras

    number = os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1")
    if keras.backend.backend() == JAX and number != "1":
        raise ValueError(
            "on the JAX backend a run takes one process with all of its devices. Received: "
            f"KERAS_DISTRIBUTION_NUM_PROCESSES={number!r}; docs/tpu.md says how `Model.fit` trains "
            "in several"
        )


def _collective_failure(message):
    """The line of an error's message that is about the other workers, and the task that is lost.

    Each is None where it is not there.  A worker that passes on what it heard of another one comes
    after that in the message.
    """
    lines = [line.strip() for line in message.splitlines()]
    place = next((i for i, line in enumerate(lines) if line.startswith(_ABORTED)), None)
    if place is None:
        return None, None
    task = _TASK.search("\n".join(lines[place:]))
    return lines[place].rpartition(_ABORTED)[2], task and task[0]


def _automatic(backend):
    import keras

    if backend == TENSORFLOW:
        import tensorflow as tf

        if len(_cluster().get("worker", ())) + len(_cluster().get("chief", ())) > 1:
            return "multiworker"
        return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "single"
    if backend == JAX:
        devices = keras.distribution.list_devices()
        several = len(devices) > 1 and not devices[0].startswith("cpu")
        return "data_parallel" if several else "single"
    return "single"


def _cluster():
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    except (ValueError, AttributeError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON like {'cluster': {'worker': ['host:port', ...]}, 'task': "
            f"{{'type': 'worker', 'index': 0}}}}. Received: {os.environ['TF_CONFIG']!r}"
        ) from error


def _single(**_):
    return Placement()


def _cpu(**_):
    import keras

    return Placement(name="cpu", make_scope=lambda: keras.device("cpu:0"))


@functools.cache
def mirrored_strategy():
    """The `tf.distribute.MirroredStrategy` over all GPUs of this machine, or all CPUs.

    One for the whole process: the sums of two strategies over the same devices have the same keys,
    which TensorFlow mixes up.
    """
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _mirrored(**_):
    return _of_object(mirrored_strategy())


def _multiworker(**_):
    import tensorflow as tf

    if not _cluster():
        raise ValueError(
            "the strategy 'multiworker' needs TF_CONFIG, with the addresses of all workers and the "
            "index of this one. Received: none; set it, or see tools/launch_local.py"
        )
    addresses = [address for task in ("chief", "worker") for address in _cluster().get(task, ())]
    logging.info("waiting for all of the %d workers: %s", len(addresses), ", ".join(addresses))
    try:
        return _of_object(tf.distribute.MultiWorkerMirroredStrategy())
    except RuntimeError as error:
        raise ValueError(
            "the strategy 'multiworker' must be made before TensorFlow computes anything. "
            f"Received: {error}"
        ) from error


def _tpu(tpu, **_):
    import tensorflow as tf

    try:
        # "local" is a TPU of this machine, as on a TPU VM.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu or "local")
        if tpu not in (None, "local"):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return _of_object(tf.distribute.TPUStrategy(resolver))
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError) as error:
        raise ValueError(
            "the strategy 'tpu' needs a TPU, and a TensorFlow that has its operations "
            f"(pip install 'keras-vit[tpu]'). Received: {str(error).splitlines()[0]}"
        ) from error


def _data_parallel(**_):
    import keras

    return _of_object(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))


def _model_parallel(model_shards, **_):
    import keras

    devices = keras.distribution.list_devices()
    if model_shards < 1 or len(devices) % model_shards:
        raise ValueError(
            f"`model_shards` must divide the number of devices {len(devices)}. "
            f"Received: {model_shards}"
        )
    mesh = keras.distribution.DeviceMesh(
        (len(devices) // model_shards, model_shards), ("batch", "model"), devices
    )
    layout = keras.distribution.LayoutMap(mesh)
    for path, axes in MODEL_PARALLEL_LAYOUT.items():
        layout[path] = axes
    return _of_object(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))


_MAKERS = {
    "single": _single,
    "cpu": _cpu,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
    "data_parallel": _data_parallel,
    "model_parallel": _model_parallel,
}


def _of_object(strategy):
    """The `Placement` of a strategy that is there."""
    import keras

    backend = keras.backend.backend()
    if isinstance(strategy, keras.distribution.DataParallel | keras.distribution.ModelParallel):
        if backend != JAX:
            raise ValueError(
                "`keras.distribution` works on the JAX backend only; on others Keras would train "
                f"on one device. Received: {type(strategy).__name__} on {backend}"
            )
        mesh = strategy.device_mesh
        is_data_parallel = isinstance(strategy, keras.distribution.DataParallel)
        return Placement(
            name="data_parallel" if is_data_parallel else "model_parallel",
            num_replicas=mesh.shape[mesh.axis_names.index(strategy.batch_dim_name)],
            make_scope=lambda: _distribution_scope(strategy),
        )
    if backend == TENSORFLOW:
        import tensorflow as tf

        if isinstance(strategy, tf.distribute.Strategy):
            return _of_tf_strategy(strategy)
    raise TypeError(
        "`strategy` must be a name, a `tf.distribute.Strategy` on the TensorFlow backend, or a "
        f"`keras.distribution` one on JAX. Received: {type(strategy).__name__} on {backend}"
    )


def _of_tf_strategy(strategy):
    import tensorflow as tf

    kinds = {
        "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
        "mirrored": tf.distribute.MirroredStrategy,
        "tpu": tf.distribute.TPUStrategy,
    }
    name = next((name for name, kind in kinds.items() if isinstance(strategy, kind)), None)
    workers = Workers()
    if name == "multiworker":
        _take_back_sigterm()
        number = strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)
        # The chief is the task "chief" if there is one, else the worker 0.
        chiefs = len(_cluster().get("chief", ()))
        resolver = strategy.cluster_resolver
        index = 0 if resolver.task_type == "chief" else (resolver.task_id or 0) + chiefs
        workers = Workers(index=index, number=number, exchange=exchange_over(strategy, index))
    return Placement(
        name=name or type(strategy).__name__,
        num_replicas=strategy.num_replicas_in_sync,
        workers=workers,
        make_scope=strategy.scope,
    )


def _take_back_sigterm():
    """Installs the handler of SIGTERM again that Python believes in.

    Several workers' TensorFlow has put its own in that place, which notes that the machine will be
    taken away, and leaves the process as it is.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _distribution_scope(distribution):
    import keras

    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
