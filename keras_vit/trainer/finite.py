"""What a training step makes of a loss that is not finite: the logs leave it out."""

import math

import keras
from keras import ops


class FiniteMean(keras.metrics.Mean):
    """The mean of those values that are finite; NaN if there was none."""

    def update_state(self, values, sample_weight=None):
        values = ops.cast(values, self.dtype)
        weight = ops.ones_like(values) if sample_weight is None else sample_weight
        finite = ops.isfinite(values)
        weight = ops.where(finite, ops.cast(weight, self.dtype), 0.0)
        super().update_state(ops.where(finite, values, 0.0), sample_weight=weight)

    def result(self):
        return self.total / ops.cast(self.count, self.dtype)


def with_gradient_to_match(loss):
    """The loss unchanged; where it is not finite, its gradient is not finite either."""
    return loss * ops.cast(ops.where(ops.isfinite(loss), 1.0, math.nan), loss.dtype)
