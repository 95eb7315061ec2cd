"""The middle of a training step: gradient -> guard -> update.

The guard sees the gradient of the whole batch, whatever the optimizer: it takes the scale of the
loss off, measures the norm, clips, and decides whether the update happens at all.  A gradient that
is not finite changes nothing but the count of steps and the scale of the loss.  This is the only
place that refuses a step; an optimizer in a training step of another kind refuses nothing.
"""

import contextlib
import math

import keras
from keras import ops

# What it may log.
LOGS = ("gradient_norm", "loss_scale")


def check(optimizer, gradients):
    """Measures and clips a gradient.

    Args:
        optimizer: A built Keras optimizer.
        gradients: List of arrays or None, the gradient of the loss that `optimizer.scale_loss`
            gave, summed over all replicas.

    Returns:
        `(gradients, is_finite, logs)`: the gradient to apply, a scalar bool, and a dict of scalars:
        `gradient_norm` before clipping, and `loss_scale` where the optimizer changes one.
    """
    if _scales_by_itself(optimizer):
        scale = ops.cast(optimizer.dynamic_scale, "float32")
        logs = {"gradient_norm": global_norm(gradients) / scale, "loss_scale": scale}
        return gradients, ops.convert_to_tensor(True), logs
    scale = getattr(optimizer, "loss_scale", None)
    if scale is not None:
        divisor = ops.convert_to_tensor(scale)
        gradients = _mapped(lambda g: g / ops.cast(divisor, g.dtype), gradients)
    norm = global_norm(gradients)
    is_finite = ops.isfinite(norm)
    logs = {"gradient_norm": norm}
    if hasattr(optimizer, "gradient_norm"):
        optimizer.gradient_norm.assign(norm)
    if scale is not None:
        optimizer.adapt_loss_scale(is_finite)
        logs["loss_scale"] = ops.convert_to_tensor(scale)
    return _clipped(optimizer, gradients, norm), is_finite, logs


def empty_logs(optimizer):
    """Zeros in the places of what `check` logs for an optimizer."""
    changes_scale = _scales_by_itself(optimizer) or hasattr(optimizer, "loss_scale")
    return {name: ops.zeros((), "float32") for name in LOGS[: 1 + changes_scale]}


def unscaled(optimizer, gradients):
    """Gradients without the constant `loss_scale_factor` of a Keras optimizer."""
    factor = getattr(optimizer, "loss_scale_factor", None)
    return _mapped(lambda g: g if factor is None else g / factor, gradients)


def global_norm(gradients):
    """The norm of the whole gradient, a float32 scalar."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
    return ops.sqrt(sum(squares))


def _clipped(optimizer, gradients, norm):
    if optimizer.gradient_accumulation_steps:
        return gradients  # the optimizer clips the mean
    if optimizer.global_clipnorm is None:
        return keras.optimizers.Optimizer._clip_gradients(optimizer, gradients)
    # 1 where the norm is small enough, and NaN where it is NaN.
    scale = optimizer.global_clipnorm / ops.maximum(norm, optimizer.global_clipnorm)
    return _mapped(lambda g: g * ops.cast(scale, g.dtype), gradients)


@contextlib.contextmanager
def checked(optimizer):
    """Has an optimizer apply gradients as they are: summed, unscaled and clipped."""
    parts = {"_all_reduce_sum_gradients": list}
    if _scales_by_itself(optimizer):
        optimizer = optimizer.inner_optimizer
    else:
        parts["loss_scale_factor"] = None
        if not optimizer.gradient_accumulation_steps:
            parts["_clip_gradients"] = list
    before = {name: vars(optimizer)[name] for name in parts if name in vars(optimizer)}
    vars(optimizer).update(parts)
    try:
        yield
    finally:
        for name in parts:
            del vars(optimizer)[name]
        vars(optimizer).update(before)


def _scales_by_itself(optimizer):
    """Whether it is Keras's around another one, for float16; it refuses what overflows."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _mapped(function, gradients):
    return [None if gradient is None else function(gradient) for gradient in gradients]


def with_gradient_to_match(loss):
    """The loss unchanged; where it is not finite, its gradient is not finite either."""
    return loss * ops.cast(ops.where(ops.isfinite(loss), 1.0, math.nan), loss.dtype)


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
