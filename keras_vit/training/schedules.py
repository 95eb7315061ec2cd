"""The official learning rate schedule as a Keras schedule."""

import math

import keras

DECAYS = ("linear", "cosine", "constant", "staircase")


@keras.saving.register_keras_serializable(package="keras_vit")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up times a decay (vit_jax `utils.create_learning_rate_schedule`).

    With base b = `learning_rate`, end e = `end_learning_rate`, W = `warmup_steps`,
    T = `total_steps` and step t, counted from 0:

        p = clip((t - W) / (T - W), 0, 1)
        linear:    r = e + (b - e) (1 - p)
        cosine:    r = b (1 + cos(pi p)) / 2
        constant:  r = b
        staircase: r = b / 10^n, n the number of `boundaries` less than t (BiT-HyperRule)
        rate = r min(1, t / W), or r where W is 0

    Unlike `keras.optimizers.schedules.CosineDecay`, T counts the warm-up, and the first update of a
    run with warm-up has the rate 0.

    Args:
        learning_rate: b, the highest rate.
        total_steps: T, more than W.
        decay: one of `DECAYS`.
        warmup_steps: W.
        end_learning_rate: e, of the linear decay only; 1e-5 in the official code.
        boundaries: steps after which the staircase falls to a tenth; of that decay only.
        name: of the operations.

    Call arguments:
        step: scalar t, an integer or a float.

    Returns:
        The rate, a float32 scalar.

    Raises:
        ValueError: for an unknown decay, negative values, boundaries without a staircase or the
            other way round, or a warm-up that leaves no step.
    """

    def __init__(
        self,
        learning_rate,
        total_steps,
        decay="cosine",
        warmup_steps=0,
        end_learning_rate=1e-5,
        boundaries=(),
        name="warmup_decay",
    ):
        super().__init__()
        if decay not in DECAYS:
            raise ValueError(f"`decay` must be one of {DECAYS}. Received: {decay!r}")
        if learning_rate < 0 or end_learning_rate < 0:
            raise ValueError(
                "`learning_rate` and `end_learning_rate` must not be negative. "
                f"Received: {learning_rate} and {end_learning_rate}"
            )
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}"
            )
        if bool(boundaries) != (decay == "staircase"):
            raise ValueError(
                "`boundaries` must be given for the staircase and for no other decay. "
                f"Received: {tuple(boundaries)} for {decay!r}"
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.end_learning_rate = end_learning_rate
        self.boundaries = tuple(boundaries)
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            step = keras.ops.cast(step, "float32")
            # JAX takes no integers of more than 31 bits.
            decay_steps = float(self.total_steps - self.warmup_steps)
            progress = keras.ops.clip((step - self.warmup_steps) / decay_steps, 0.0, 1.0)
            if self.decay == "linear":
                falling = self.learning_rate - self.end_learning_rate
                rate = self.end_learning_rate + falling * (1.0 - progress)
            elif self.decay == "cosine":
                rate = self.learning_rate * 0.5 * (1.0 + keras.ops.cos(math.pi * progress))
            elif self.decay == "staircase":
                passed = keras.ops.cast(
                    step > keras.ops.array(self.boundaries, "float32"), "float32"
                )
                rate = self.learning_rate * keras.ops.power(0.1, keras.ops.sum(passed))
            else:
                rate = keras.ops.full_like(progress, self.learning_rate)
            if self.warmup_steps:
                rate = rate * keras.ops.minimum(1.0, step / self.warmup_steps)
            return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "decay": self.decay,
            "warmup_steps": self.warmup_steps,
            "end_learning_rate": self.end_learning_rate,
            "boundaries": self.boundaries,
            "name": self.name,
        }
