"""The objectives by name."""

from keras_vit.training.objectives import mae, masked_patches, segmentation, supervised

# Name in `keras_vit.training.recipe.OBJECTIVES` -> function of a recipe.
BY_NAME = {
    "supervised": supervised.from_recipe,
    "masked_patches": masked_patches.from_recipe,
    "mae": mae.from_recipe,
    "segmentation": segmentation.from_recipe,
}


def objective_of(recipe):
    """Returns the objective that a recipe names, or has."""
    if isinstance(recipe.objective, str):
        return BY_NAME[recipe.objective](recipe)
    return recipe.objective


def uses_labels(recipe):
    """Whether what a recipe learns needs the classes of the data set."""
    return getattr(objective_of(recipe), "uses_labels", True)
