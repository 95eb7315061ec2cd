"""What acts in training only, as functions: dropout and stochastic depth.

Layers that use them own one seed generator, so that its state is found, saved and restored with
the layer.  Shapes: B batch.
"""

import contextlib

import keras
from keras import ops


class SeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose draws differ between the replicas of a `tf.distribute` strategy.

    The state of Keras's own is the same on all replicas, and with it the masks.  On one device the
    two draw the same.
    """

    _given = None

    @contextlib.contextmanager
    def giving(self, seeds):
        """Draws these seeds in the block, so that what is computed twice has the same masks."""
        self._given = list(seeds)
        try:
            yield
        finally:
            self._given = None

    def next(self, ordered=True):
        if self._given is not None:
            return self._given.pop(0)
        seed = super().next(ordered)
        if keras.backend.backend() != "tensorflow":
            return seed
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        return tf.random.fold_in(seed, context.replica_id_in_sync_group)


def seed_generator(*rates):
    """A `SeedGenerator`, or None if all rates are 0 and nothing will be drawn.

    Raises:
        ValueError: if a rate is outside [0, 1).
    """
    for rate in rates:
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rates must be in [0, 1). Received: {rate}")
    return SeedGenerator() if any(rates) else None


def dropout(x, rate, seeds, training):
    """Zeroes a share `rate` of the values in training, and divides the others by 1 - rate."""
    if not training or rate == 0.0:
        return x
    return keras.random.dropout(x, rate, seed=seeds)


def drop_branch(branch, rate, seeds, training):
    """Stochastic depth (arXiv:1603.09382): drops a residual branch for whole examples in training.

    Args:
        branch: (B, ...).
        rate: probability of dropping; what stays is divided by 1 - rate, so that the expectation
            is unchanged.
        seeds: `keras.random.SeedGenerator`.
        training: outside training the branch passes unchanged.
    """
    if not training or rate == 0.0:
        return branch
    shape = (ops.shape(branch)[0],) + (1,) * (len(branch.shape) - 1)
    keep = keras.random.uniform(shape, seed=seeds) >= rate
    return branch * ops.cast(keep, branch.dtype) / (1.0 - rate)


@keras.saving.register_keras_serializable(package="keras_vit")
class Dropout(keras.layers.Layer):
    """`dropout` as a layer, whose masks differ between the replicas of a strategy.

    Args:
        rate: share of the values that is zeroed in training, in [0, 1).

    Call arguments:
        x: any shape.
        training: whether it acts.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = seed_generator(rate)

    def call(self, x, training=None):
        return dropout(x, self.rate, self.seed_generator, training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
