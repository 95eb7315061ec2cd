"""What a run trains on and how: a data set with its splits, and the recipe that fits it."""

import dataclasses

from keras_vit.data import pipeline, preprocess, validation
from keras_vit.training.callbacks import image_progress
from keras_vit.training.recipe_table import RULES, get_recipe

TRAIN, VALIDATION, TRAINVAL, TEST = "train", "validation", "trainval", "test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A data set, and which of its examples are for what.

    Args:
        info: `DatasetInfo`.
        train: the split to train on.
        validation: the split of the reports, or None.
        test: the split of the final evaluation, or None.
        shots: images of each class to train on; None takes all.
        num_skipped: bad examples that were left out; None where none may be.
    """

    info: pipeline.DatasetInfo
    train: str
    validation: str | None
    test: str | None
    shots: int | None
    num_skipped: int | None

    def num_examples(self):
        """The number of examples to train on."""
        if self.shots is not None:
            return self.shots * self.info.num_classes
        return self.info.num_examples(self.train)


def resolve_task(dataset, recipe, overrides, train_split, shots, skipped, **options):
    """Finds the data set and the recipe.

    What is wrong with the recipe is said before the data are looked for.

    Args:
        dataset: a name, a folder or a `DatasetInfo`; None takes the recipe's.
        recipe: a name of `list_recipes()`, or a `Recipe`.
        overrides: fields of the recipe to change.
        train_split: the split to train on.
        shots: images of each class, or None for all.
        skipped: path of the list of bad examples, where they may be left out; None writes none.
        **options: `data_dir`, `download`, `max_bad_fraction` and `progress` of
            `keras_vit.finetune`.

    Returns:
        `(TrainingData, Recipe)`.

    Raises:
        ValueError, BadDataError: as `keras_vit.finetune`.
    """
    if recipe not in RULES:
        recipe = _checked(get_recipe(recipe, **overrides))
        dataset = recipe.dataset if dataset is None else dataset
    if dataset is None:
        raise ValueError("a training must have a data set. Received: None; name one")
    max_bad_fraction, progress = options.pop("max_bad_fraction"), options.pop("progress")
    info = dataset
    if not isinstance(dataset, pipeline.DatasetInfo) and max_bad_fraction is None:
        info = pipeline.resolve(dataset, **options)
    entries = None
    if max_bad_fraction is not None:
        if skipped is not None:
            skipped.parent.mkdir(parents=True, exist_ok=True)
        info, entries = validation.resolve_without_bad(
            dataset,
            splits=lambda info: [split for split in _splits(info, train_split) if split],
            max_bad_fraction=max_bad_fraction,
            report=skipped,
            progress=image_progress if progress else None,
            **options,
        )
    train, validation_split, test = _splits(info, train_split)
    data = TrainingData(
        info=info,
        train=train,
        validation=validation_split,
        test=test,
        shots=shots,
        num_skipped=None if entries is None else len(entries),
    )
    if recipe in RULES:
        sizes = {"num_examples": data.num_examples(), "source_size": info.image_size}
        recipe = _checked(get_recipe(recipe, **sizes, **overrides))
    return data, recipe


def _splits(info, train):
    """The names of the splits for training, reports and the final evaluation, or None."""
    has_validation = VALIDATION in info.split_sizes and train not in (VALIDATION, TRAINVAL)
    test = TEST if TEST in info.split_sizes and train != TEST else None
    return train, VALIDATION if has_validation else None, test


def _checked(recipe):
    preprocess.get_augmentation(recipe.augmentation)
    return recipe
