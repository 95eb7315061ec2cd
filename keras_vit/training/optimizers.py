"""Optimizers from recipes."""

import keras

from keras_vit.training.schedules import WarmupDecay


def make_schedule(recipe, total_steps):
    """The recipe's `WarmupDecay` for a run of that many updates."""
    return WarmupDecay(recipe.learning_rate, total_steps, recipe.decay, recipe.warmup_steps)


def make_optimizer(recipe, total_steps):
    """The recipe's optimizer, with its schedule.

    Args:
        recipe: `Recipe`.
        total_steps: number of updates of the run.

    Returns:
        A `keras.optimizers.Optimizer`.  Its weight decay is decoupled and multiplied by the rate,
        and acts on all variables, as in the paper's code; it clips the norm of the whole gradient.

    Raises:
        ValueError: where the recipe's warm-up leaves no step.
    """
    arguments = {
        "learning_rate": make_schedule(recipe, total_steps),
        "weight_decay": recipe.weight_decay or None,
        "global_clipnorm": recipe.global_clipnorm,
    }
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=0.9, **arguments)
    if recipe.weight_decay:
        return keras.optimizers.AdamW(beta_1=0.9, beta_2=0.999, epsilon=1e-8, **arguments)
    return keras.optimizers.Adam(beta_1=0.9, beta_2=0.999, epsilon=1e-8, **arguments)
