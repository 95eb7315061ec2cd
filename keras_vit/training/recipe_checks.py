"""What the fields of a recipe have to do with each other.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import math

MODES = ("min", "max")
SAMPLING = ("balanced",)
# Field -> the objectives that it says nothing to.
_WITHOUT_CLASSES = {
    "class_weights": ("multilabel", "regression", "masked_patches", "mae"),
    "sampling": ("multilabel", "regression", "masked_patches", "mae", "segmentation"),
}


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


def check_classes(recipe):
    """Parses the class weights, and raises ValueError for an objective without one class an image.

    On a command line they are `balanced` or numbers with commas between.
    """
    weights, objective = recipe.class_weights, recipe.objective
    for field, without in _WITHOUT_CLASSES.items():
        if getattr(recipe, field) is not None and objective in without:
            raise ValueError(
                f"`{field}` is of one class an image. Received: {getattr(recipe, field)!r} for the "
                f"objective {objective!r}"
            )
    if recipe.sampling is not None and weights == "balanced":
        raise ValueError(
            "a class must be balanced once. Received: sampling='balanced' and "
            "class_weights='balanced'; leave one of them out"
        )
    if objective == "segmentation" and weights == "balanced":
        raise ValueError(
            "`class_weights` of a segmentation must be a number for each class. "
            "Received: 'balanced'"
        )
    if weights is None or weights == "balanced":
        return
    given = weights.split(",") if isinstance(weights, str) else weights
    try:
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(n) and n >= 0 for n in numbers) or not any(numbers):
        raise ValueError(
            "`class_weights` must be 'balanced', or a number for each class, none negative. "
            f"Received: {weights!r}"
        )
    object.__setattr__(recipe, "class_weights", numbers)
