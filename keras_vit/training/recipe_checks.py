"""What the fields of a recipe have to do with each other.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

MODES = ("min", "max")


def check_monitor(recipe):
    """Raises ValueError for fields of the early stopping without what they are about."""
    for field in ("mode", "patience", "restore_best_weights"):
        if recipe.monitor is None and getattr(recipe, field) is not None:
            raise ValueError(
                f"`{field}` needs a `monitor`, such as 'validation/accuracy'. "
                f"Received: {getattr(recipe, field)!r} without"
            )
    if recipe.restore_best_weights is False and recipe.patience is None:
        raise ValueError(
            "`monitor` must be for early stopping or for the best weights. Received: no `patience` "
            "and restore_best_weights=False"
        )
