"""The training of linear classifiers on features, as DINO, MAE and DINOv2 define it.

Several rates are trained at once: each has a classifier of its own on the same batches, and the
loss is the sum of theirs, whose gradients have nothing to do with each other.

Legend: `B` batch, `R` rates, `F` features, `C` classes.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

OPTIMIZERS = ("sgd", "lars")
_MOMENTUM = 0.9
_TRUST = 0.001
# PyTorch's BatchNorm1d keeps nine tenths of its running statistics, as does MAE's epsilon of 1e-6.
_KEPT = 0.9
_EPSILON = 1e-6
_INIT_STDDEV = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How linear classifiers are trained.  Exactly one of `epochs` and `steps` says how long.

    Args:
        source: where its numbers come from.
        optimizer: "sgd" or "lars", with momentum 0.9 and no decay.
        learning_rates: the rates that are tried, each for a batch of 256 and multiplied by
            batch / 256.
        batch_size: examples in one update; fewer where the split has not so many.
        epochs: how often each image is seen.
        steps: number of updates.
        warmup_epochs: epochs until the rate is reached, linearly from 0.
        falls_each: when the cosine to 0 falls, each "epoch" or each "step".
        normalise: whether features go through a BatchNorm without scale and offset.
        representation: a name in `keras_vit.evaluators.features.REPRESENTATIONS`.

    Raises:
        ValueError: for a value out of range.
    """

    source: str
    optimizer: str
    learning_rates: tuple[float, ...]
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    warmup_epochs: int = 0
    falls_each: str = "step"
    normalise: bool = False
    representation: str = "pre_logits"

    def __post_init__(self):
        object.__setattr__(self, "learning_rates", tuple(map(float, self.learning_rates)))
        if self.optimizer not in OPTIMIZERS or self.falls_each not in ("epoch", "step"):
            raise ValueError(
                f"`optimizer` must be one of {OPTIMIZERS}, and `falls_each` 'epoch' or 'step'. "
                f"Received: {self.optimizer!r} and {self.falls_each!r}"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "exactly one of `epochs` and `steps` must be given. Received: "
                f"{self.epochs} and {self.steps}"
            )
        if self.steps is not None and (self.warmup_epochs or self.falls_each == "epoch"):
            raise ValueError("a schedule by epochs needs `epochs`. Received: `steps`")
        if min(self.epochs or self.steps, self.batch_size) < 1 or not self.learning_rates:
            raise ValueError(
                "a probe needs a length, a batch size and a rate. Received: "
                f"{self.epochs or self.steps}, {self.batch_size} and {self.learning_rates}"
            )
        if not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"rates must be positive. Received: {self.learning_rates}")
        if not 0 <= self.warmup_epochs < (self.epochs or self.steps):
            raise ValueError(
                "`warmup_epochs` must be less than the epochs. Received: "
                f"{self.warmup_epochs} of {self.epochs}"
            )

    def schedule(self, steps_per_epoch):
        """The `ProbeSchedule` for so many updates an epoch."""
        if self.steps is not None:
            return ProbeSchedule(1, self.steps)
        return ProbeSchedule(
            steps_per_epoch, self.epochs, self.warmup_epochs, self.falls_each == "epoch"
        )

    def num_steps(self, steps_per_epoch):
        """The number of updates."""
        return self.steps or self.epochs * steps_per_epoch


PROTOCOLS = {
    # facebookresearch/dino eval_linear.py, 8 GPUs; its `avgpool` and blocks are representations.
    "dino": Protocol(
        source="DINO, eval_linear.py (arXiv:2104.14294)",
        optimizer="sgd",
        learning_rates=(0.001,),
        batch_size=1024,
        epochs=100,
        falls_each="epoch",
    ),
    # facebookresearch/mae main_linprobe.py, ViT-B.
    "mae": Protocol(
        source="MAE, main_linprobe.py (arXiv:2111.06377, Table 10)",
        optimizer="lars",
        learning_rates=(0.1,),
        batch_size=16_384,
        epochs=90,
        warmup_epochs=10,
        normalise=True,
    ),
    # facebookresearch/dinov2 eval/linear.py: 10 times 1,250 steps, all rates at once.
    "dinov2": Protocol(
        source="DINOv2, eval/linear.py (arXiv:2304.07193)",
        optimizer="sgd",
        learning_rates=tuple(
            float(f"{factor}e{power}") for power in (-5, -4, -3, -2) for factor in (1, 2, 5)
        )
        + (0.1,),
        batch_size=1024,
        steps=12_500,
    ),
}


class ProbeSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Factor of the rate before an update: a linear warm-up from 0, then a cosine to 0.

        e / warm-up                                             e < warm-up
        (1 + cos(pi (e - warm-up) / (epochs - warm-up))) / 2    elsewhere

    with e = step / steps per epoch, rounded down where it falls each epoch.  Steps count from 0, so
    that the first update of a warm-up has rate 0, as in MAE.

    Args:
        steps_per_epoch: updates in an epoch.
        epochs: epochs of all.
        warmup_epochs: epochs of the warm-up.
        falls_each_epoch: whether it is the same throughout an epoch.
    """

    def __init__(self, steps_per_epoch, epochs, warmup_epochs=0, falls_each_epoch=False):
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.falls_each_epoch = falls_each_epoch

    def __call__(self, step):
        if self.falls_each_epoch:
            epoch = ops.cast(ops.cast(step, "int32") // self.steps_per_epoch, "float32")
        else:
            epoch = ops.cast(step, "float32") / self.steps_per_epoch
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        cosine = (1.0 + ops.cos(math.pi * done)) / 2.0
        if not self.warmup_epochs:
            return cosine
        return ops.where(epoch < self.warmup_epochs, epoch / self.warmup_epochs, cosine)

    def get_config(self):
        return {
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
            "warmup_epochs": self.warmup_epochs,
            "falls_each_epoch": self.falls_each_epoch,
        }


class ProbeOptimizer(keras.optimizers.Optimizer):
    """SGD or LARS with a rate for each entry of the variables' first axis.

        m <- 0.9 m + q g        w <- w - rate factor m

    as PyTorch's SGD has it: the rate multiplies the momentum and not the gradient in it.  q is 1,
    and of LARS's kernels 0.001 |w| / |g| (arXiv:1708.03888), or 1 where either norm is 0.

    Args:
        rates: R floats.
        schedule: `LearningRateSchedule` of the common factor.
        layerwise: whether it is LARS.
    """

    def __init__(self, rates, schedule, layerwise=False):
        super().__init__(learning_rate=schedule, name="probe")
        self.rates = np.asarray(rates, np.float32)
        self.layerwise = layerwise

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        momentum = self._momenta[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        if self.layerwise and len(variable.shape) == 3:  # (R, F, C)
            of_weights, of_gradient = _norms(variable), _norms(gradient)
            known = ops.logical_and(of_weights > 0, of_gradient > 0)
            ratio = _TRUST * of_weights / ops.where(known, of_gradient, 1.0)
            gradient = gradient * ops.where(known, ratio, 1.0)
        new = _MOMENTUM * momentum + gradient
        rates = ops.reshape(
            ops.convert_to_tensor(self.rates), (-1, *[1] * (len(variable.shape) - 1))
        )
        self.assign(momentum, new)
        self.assign_sub(variable, ops.cast(learning_rate, "float32") * rates * new)

    def get_config(self):
        return {
            "rates": self.rates.tolist(),
            "schedule": keras.optimizers.schedules.serialize(self._learning_rate),
            "layerwise": self.layerwise,
        }


def _norms(array):
    return ops.sqrt(ops.sum(ops.square(array), axis=(1, 2), keepdims=True))  # (R, 1, 1)


class FeatureNorm(keras.layers.Layer):
    """BatchNorm without scale and offset, as PyTorch computes it: the running variance is unbiased.

    Keras's own keeps the biased one, (B - 1) / B of it.
    """

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.mean = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="running_mean"
        )
        self.variance = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="running_variance"
        )

    def call(self, features, training=False):
        if not training:
            return (features - self.mean) / ops.sqrt(self.variance + _EPSILON)
        mean = ops.mean(features, axis=0)
        variance = ops.mean(ops.square(features - mean), axis=0)
        size = ops.cast(ops.shape(features)[0], "float32")
        unbiased = variance * size / ops.maximum(size - 1.0, 1.0)
        self.mean.assign(_KEPT * self.mean + (1 - _KEPT) * mean)
        self.variance.assign(_KEPT * self.variance + (1 - _KEPT) * unbiased)
        return (features - mean) / ops.sqrt(variance + _EPSILON)


class LinearProbes(keras.layers.Layer):
    """R linear classifiers of the same features, which start alike.

    Args:
        num_probes: R.
        num_classes: C.
        initializer: of one kernel (F, C).
    """

    def __init__(self, num_probes, num_classes, initializer, **options):
        super().__init__(**options)
        self.num_probes, self.num_classes = num_probes, num_classes
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        def one_for_all(shape, dtype=None):
            return ops.repeat(self.initializer(shape[1:], dtype)[None], shape[0], axis=0)

        shape = (self.num_probes, input_shape[-1], self.num_classes)
        self.kernel = self.add_weight(shape=shape, initializer=one_for_all, name="kernel")
        self.bias = self.add_weight(
            shape=(self.num_probes, self.num_classes), initializer="zeros", name="bias"
        )

    def call(self, features):
        return ops.einsum("bf,rfc->brc", features, self.kernel) + self.bias  # (B, R, C)


def probe_loss(labels, logits):
    """Softmax cross-entropy of each example, summed over the probes; (B,) from (B, R, C)."""
    labels = ops.repeat(ops.reshape(ops.cast(labels, "int32"), (-1, 1)), logits.shape[1], axis=1)
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(loss, axis=-1)


def make_probes(protocol, num_features, num_classes, batch_size, steps_per_epoch, seed=0):
    """A compiled model from features (B, F) to the logits of all rates, (B, R, C).

    Args:
        protocol: `Protocol`.
        num_features, num_classes: F and C.
        batch_size: B of the training, by which the rates are scaled.
        steps_per_epoch: of the training.
        seed: of the first kernel.
    """
    kind = keras.initializers.TruncatedNormal if protocol.normalise else None
    kind = kind or keras.initializers.RandomNormal
    features = keras.Input((num_features,), dtype="float32")
    x = FeatureNorm(dtype="float32", name="norm")(features) if protocol.normalise else features
    rates = np.array(protocol.learning_rates) * batch_size / 256
    layer = LinearProbes(
        len(rates),
        num_classes,
        kind(stddev=_INIT_STDDEV, seed=seed),
        dtype="float32",
        name="probes",
    )
    model = keras.Model(features, layer(x), name="linear_probes")
    model.compile(
        ProbeOptimizer(rates, protocol.schedule(steps_per_epoch), protocol.optimizer == "lars"),
        loss=probe_loss,
    )
    return model
