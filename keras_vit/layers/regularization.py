"""What acts in training only, as functions: dropout and stochastic depth.

Layers that use them own one seed generator, so that its state is found, saved and restored with
the layer.  Shapes: B batch.
"""

import keras
from keras import ops


def seed_generator(*rates):
    """A `keras.random.SeedGenerator`, or None if all rates are 0 and nothing will be drawn.

    Raises:
        ValueError: if a rate is outside [0, 1).
    """
    for rate in rates:
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rates must be in [0, 1). Received: {rate}")
    return keras.random.SeedGenerator() if any(rates) else None


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
