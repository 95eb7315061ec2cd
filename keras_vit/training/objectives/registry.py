"""The objectives by name."""

from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION
from keras_vit.training.objectives import (
    distillation,
    mae,
    masked_patches,
    multilabel,
    regression,
    segmentation,
    supervised,
)

# Name in `keras_vit.training.recipe_objectives.OBJECTIVES` -> function of a recipe.
BY_NAME = {
    "supervised": supervised.from_recipe,
    "multilabel": multilabel.from_recipe,
    "regression": regression.from_recipe,
    "distillation": distillation.from_recipe,
    "segmentation": segmentation.from_recipe,
    "masked_patches": masked_patches.from_recipe,
    "mae": mae.from_recipe,
}


# Name -> what the labels of its data must be.
TASKS = {
    "supervised": CLASSIFICATION,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
    "distillation": CLASSIFICATION,
}


def task_of(objective):
    """What the labels must be for an objective, or the name of one; None for any.

    >>> task_of("regression")
    'regression'
    """
    if isinstance(objective, str):
        return TASKS.get(objective)
    return getattr(objective, "task", None)


def objective_of(recipe):
    """Returns the objective that a recipe names, or has."""
    if isinstance(recipe.objective, str):
        return BY_NAME[recipe.objective](recipe)
    return recipe.objective


def uses_labels(recipe):
    """Whether what a recipe learns needs the classes of the data set."""
    return getattr(objective_of(recipe), "uses_labels", True)
