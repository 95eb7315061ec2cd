"""Optimizers in the official code's arithmetic, as ordinary Keras optimizers.

They differ from Keras's own where that changes the numbers:

- Momentum.  Keras's SGD has the learning rate inside its momentum, m = 0.9 m - rate g.  Here, as in
  the official code, the trace t = 0.9 t + g is multiplied by the rate of each step: with a rate
  that changes, the updates are others.
- Adam's epsilon is added to the corrected second moment's root, as in optax.
- The first moment may be kept in bfloat16, in half the memory.
- The norm of the whole gradient, before clipping, is kept in the variable `gradient_norm`.
- `dynamic_loss_scale` is what float16 needs: the loss is multiplied by a variable, and the gradient
  divided by it.  One that overflows halves the scale, 2000 in a row that do not double it.
  (Keras's `LossScaleOptimizer` around these would hide their averages and their norm.)

A step whose gradient is not finite is refused by the training step of this package's models
(`keras_vit.train_step.guard`), with these optimizers and Keras's alike; in a training step of
another kind nothing is refused.
"""

import contextlib

import keras
from keras import ops

from keras_vit.train_step import guard
from keras_vit.training.recipe_objects import copied
from keras_vit.training.schedules import WarmupDecay

MOMENTUM_DTYPES = ("float32", "bfloat16")
# As in Keras's `LossScaleOptimizer`, but for the limits.
FIRST_LOSS_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2000
LOSS_SCALES = (1.0, 2.0**24)


class _Optimizer(keras.optimizers.Optimizer):
    """What both have in common: the gradient's norm, moments of a dtype of their own, and factors.

    `rate_factors` (path of a variable -> what its rate is multiplied by, 1 for those that are not
    there) acts on its update and on its weight decay; 0 leaves it as it is, to the bit.
    """

    def __init__(
        self,
        *args,
        momentum_dtype="float32",
        dynamic_loss_scale=False,
        rate_factors=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.rate_factors = None if rate_factors is None else dict(rate_factors)
        for name in ("loss_scale_factor", "gradient_accumulation_steps"):
            if dynamic_loss_scale and kwargs.get(name) is not None:
                raise ValueError(f"`dynamic_loss_scale` must be without `{name}`. Received: both")
        self.dynamic_loss_scale = dynamic_loss_scale
        if momentum_dtype not in MOMENTUM_DTYPES:
            raise ValueError(
                f"`momentum_dtype` must be one of {MOMENTUM_DTYPES}. Received: {momentum_dtype!r}"
            )
        self.momentum_dtype = momentum_dtype

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        factors = self.rate_factors or {}
        unknown = sorted(set(factors) - {variable.path for variable in variables})
        if unknown:
            raise ValueError(
                "`rate_factors` must be of variables that are trained. "
                f"Received: {unknown[0]!r} among {len(unknown)}; make them after freezing"
            )
        self._factors = [factors.get(variable.path, 1.0) for variable in variables]
        self.gradient_norm = self._add_scalar("gradient_norm")
        if self.dynamic_loss_scale:
            self.loss_scale = self._add_scalar("loss_scale")
            self.loss_scale.assign(FIRST_LOSS_SCALE)
            self.steps_since_overflow = self._add_scalar("steps_since_overflow")
        self.momentums = [self._first_moment(variable) for variable in variables]
        # Keras's begin at 0 and are set by the first update, which may be refused.
        if self.use_ema:
            averages = self._model_variables_moving_average
            for variable, average in zip(variables, averages, strict=False):
                average.assign(ops.copy(variable))

    def _add_scalar(self, name):
        return self.add_variable((), dtype="float32", aggregation="only_first_replica", name=name)

    @property
    def measures(self):
        """name -> variable of what a step leaves in its logs."""
        scale = {"loss_scale": self.loss_scale} if self.dynamic_loss_scale else {}
        return {"gradient_norm": self.gradient_norm, **scale}

    def scale_loss(self, loss):
        """What the gradient is to be taken of."""
        if not self.dynamic_loss_scale:
            return super().scale_loss(loss)
        scale = self.loss_scale if self.built else FIRST_LOSS_SCALE
        return loss * ops.cast(scale, loss.dtype)

    def _first_moment(self, variable):
        # TensorFlow cannot send bfloat16 between workers: there its values are kept in float32.
        dtype = "float32" if _has_several_workers() else self.momentum_dtype
        return self.add_variable(
            variable.shape,
            dtype=dtype,
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_momentum",
        )

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[self._get_variable_index(variable)]
        if not factor:
            return
        rate = learning_rate if factor == 1.0 else learning_rate * factor
        if self.rate_factors and self.weight_decay and self._use_weight_decay(variable):
            decay = ops.cast(rate, variable.dtype) * self.weight_decay
            self.assign_sub(variable, variable * decay)
        self._update(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        if not self.rate_factors:  # else each variable's update does it
            super()._apply_weight_decay(variables)

    def _update_model_variables_moving_average(self, trainable_variables):
        super()._update_model_variables_moving_average(trainable_variables)
        # The average of what does not move is rounded anew in each step.
        averages = self._model_variables_moving_average
        for variable, average, factor in zip(
            trainable_variables, averages, self._factors, strict=True
        ):
            if self.use_ema and not factor:
                average.assign(ops.copy(variable))

    def _clip_gradients(self, grads):
        """For training steps of another kind; the guard switches it off."""
        return guard.check(self, grads)[0]

    def adapt_loss_scale(self, is_finite):
        """Halves the scale after a gradient that overflows, and doubles it after many that do not.

        Args:
            is_finite: Whether the gradient of this step was finite, a scalar.
        """
        lowest, highest = LOSS_SCALES
        count = ops.where(is_finite, self.steps_since_overflow + 1.0, 0.0)
        is_time = count >= STEPS_TO_DOUBLE
        factor = ops.where(is_finite, ops.where(is_time, 2.0, 1.0), 0.5)
        self.loss_scale.assign(ops.clip(self.loss_scale * factor, lowest, highest))
        self.steps_since_overflow.assign(ops.where(is_time, 0.0, count))

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        if self.use_ema and keras.backend.backend() == "jax":
            # Else weights and averages are the same arrays, which JAX takes from both of them.
            for average in self._model_variables_moving_average:
                average.assign(ops.copy(average.value))

    def get_config(self):
        own = {name: getattr(self, name) for name in ("momentum_dtype", "dynamic_loss_scale")}
        # Left out where there are none: descriptions of older trainings have no such entry.
        factors = {} if self.rate_factors is None else {"rate_factors": self.rate_factors}
        return {**super().get_config(), **own, **factors}


def _has_several_workers():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    is_multiworker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return is_multiworker and strategy.num_replicas_in_sync > 1


def _decayed(moment, factor, moment_dtype, dtype):
    """factor x moment as the compiled official code computes it.

    The factor takes the moment's dtype (0.9 is 0.8984375 in bfloat16); the product is not rounded.
    """
    factor = ops.cast(ops.convert_to_tensor(factor, moment_dtype), dtype)
    return factor * ops.cast(moment, dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (the fine-tuning of Table 4).

        t <- momentum t + g;  w <- w - rate t

    Args:
        learning_rate: a number or a schedule of the step, counted from 0.
        momentum: in [0, 1).
        momentum_dtype: of t, one of `MOMENTUM_DTYPES`; the official fine-tuning keeps it in
            bfloat16.
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, such as `global_clipnorm`, `weight_decay`
            (decoupled, multiplied by the rate) and `use_ema`; `dynamic_loss_scale`, for models in
            mixed float16; and `rate_factors`, a dict from variable path to a factor of the rate.

    Raises:
        ValueError: for a momentum or a dtype that is not one of these.
    """

    def __init__(
        self, learning_rate=0.03, momentum=0.9, momentum_dtype="float32", name="sgd", **kwargs
    ):
        super().__init__(learning_rate, momentum_dtype=momentum_dtype, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {momentum}")
        self.momentum = momentum

    def _update(self, gradient, variable, learning_rate):
        trace = self.momentums[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        new_trace = gradient + _decayed(trace, self.momentum, self.momentum_dtype, variable.dtype)
        self.assign(trace, ops.cast(ops.cast(new_trace, self.momentum_dtype), trace.dtype))
        self.assign_sub(variable, learning_rate * new_trace)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_vit")
class AdamW(_Optimizer):
    """Adam with decoupled weight decay (the pre-training of Table 3).

        m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        w <- w - rate (m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + epsilon) + weight_decay w)

    with n the number of the update, counted from 1.

    Args:
        learning_rate: a number or a schedule of the step, counted from 0.
        weight_decay: multiplied by the rate; None or 0 is plain Adam.
        beta_1: b1.
        beta_2: b2.
        epsilon: added to the root.
        momentum_dtype: of m, one of `MOMENTUM_DTYPES`; big_vision keeps it in bfloat16.
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, such as `global_clipnorm` and `use_ema`; and
            `dynamic_loss_scale` and `rate_factors`, as in `SGD`.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=None,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        momentum_dtype="float32",
        name="adamw",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay or None,
            momentum_dtype=momentum_dtype,
            name=name,
            **kwargs,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def _update(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        moment, velocity = self.momentums[index], self.velocities[index]
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        count = ops.cast(self.iterations + 1, variable.dtype)
        new_moment = (1 - self.beta_1) * gradient
        new_moment = new_moment + _decayed(moment, self.beta_1, self.momentum_dtype, variable.dtype)
        new_velocity = (1 - self.beta_2) * ops.square(gradient) + self.beta_2 * velocity
        self.assign(moment, ops.cast(ops.cast(new_moment, self.momentum_dtype), moment.dtype))
        self.assign(velocity, new_velocity)
        first = new_moment / (1 - ops.power(ops.cast(self.beta_1, variable.dtype), count))
        second = new_velocity / (1 - ops.power(ops.cast(self.beta_2, variable.dtype), count))
        step = first / (ops.sqrt(second) + self.epsilon)
        self.assign_sub(variable, learning_rate * step)

    def get_config(self):
        betas = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **betas}


def make_schedule(recipe, total_steps):
    """The recipe's schedule for a run of that many updates."""
    if recipe.schedule is not None:
        return recipe.schedule
    return WarmupDecay(
        recipe.learning_rate,
        total_steps,
        recipe.decay,
        recipe.warmup_steps,
        boundaries=recipe.boundaries or (),
    )


def make_optimizer(recipe, total_steps, variables, dynamic_loss_scale=False, rate_factors=None):
    """The recipe's optimizer, with its schedule, built.

    Args:
        recipe: `Recipe`.
        total_steps: number of updates of the run.
        variables: the model's trainable variables.
        dynamic_loss_scale: whether the model computes in float16.
        rate_factors: variable path -> factor of its rate, or None.

    Returns:
        A `keras.optimizers.Optimizer`.  Its weight decay is decoupled and multiplied by the rate;
        it clips the norm of the whole gradient.

    Raises:
        ValueError: where the recipe's warm-up leaves no step; for factors of the rate with an
            optimizer of another package.
    """
    factors = {} if rate_factors is None else {"rate_factors": rate_factors}
    if not isinstance(recipe.optimizer, str):
        if factors and not isinstance(recipe.optimizer, _Optimizer):
            raise ValueError(
                "`layer_decay` and `head_rate_factor` need an optimizer of "
                "`keras_vit.training.optimizers`. "
                f"Received: {type(recipe.optimizer).__name__}"
            )
        # A new one in the scope of the strategy; its schedule may be of a class of the user's.
        rate = recipe.schedule or recipe.optimizer._learning_rate
        is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        rates = {"learning_rate": rate} if is_schedule else {}
        optimizer = copied(recipe.optimizer, **rates, **factors)
        optimizer.build(variables)
        return optimizer
    make, betas = {"sgd": (SGD, {}), "adamw": (AdamW, {"beta_2": recipe.beta_2})}[recipe.optimizer]
    optimizer = make(
        make_schedule(recipe, total_steps),
        **betas,
        weight_decay=recipe.weight_decay or None,
        global_clipnorm=recipe.global_clipnorm,
        momentum_dtype=recipe.momentum_dtype,
        dynamic_loss_scale=dynamic_loss_scale,
        use_ema=recipe.ema is not None,
        ema_momentum=recipe.ema or 0.0,
        **factors,
    )
    if recipe.weight_decay and recipe.weight_decay_on == "kernels":
        kernels = ("kernel", "_lora/a", "_lora/b")
        others = [v for v in variables if not v.path.endswith(kernels)]
        optimizer.exclude_from_weight_decay(var_list=others)
    # Else its variables are made inside the first step, which TensorFlow then traces twice.
    optimizer.build(variables)
    return optimizer


def rate_at(optimizer, step):
    """The learning rate of an optimizer in a step, counted from 0; a float."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return float(rate(step))
    return float(ops.convert_to_numpy(optimizer.learning_rate))


@contextlib.contextmanager
def averaged_weights(model):
    """Gives a model the moving average of its weights for the length of a block.

    Nothing happens where its optimizer keeps none.  Use it between steps only.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer is None or not getattr(optimizer, "use_ema", False):
        yield
        return
    variables = optimizer._trainable_variables
    kept = [keras.ops.copy(variable.value) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        variable.assign(keras.ops.copy(average.value))
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
