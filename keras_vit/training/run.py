"""Pre-training and fine-tuning: a recipe, a data set and a model in; the folder of a run out."""

import os
import pathlib

from keras_vit import zoo
from keras_vit.evaluation.classification import check_classes
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.presets import get_preset
from keras_vit.training import folder
from keras_vit.training.callbacks import TrainingError
from keras_vit.training.execution import RunResult, execute
from keras_vit.training.recipes import ARCHITECTURE_FIELDS
from keras_vit.training.strategy import place
from keras_vit.training.task import TRAIN, resolve_task
from keras_vit.training.workers import ending_at_once

__all__ = ["RunResult", "TrainingError", "finetune", "pretrain"]

SKIPPED = "skipped.jsonl"


@ending_at_once()
def pretrain(
    dataset,
    workdir,
    *,
    recipe="digits_pretrain",
    model=None,
    data_dir=None,
    train_split=TRAIN,
    shots=None,
    download=False,
    max_bad_fraction=None,
    overwrite=False,
    checkpoint_steps=None,
    progress=True,
    strategy=None,
    **overrides,
):
    """Trains a model from random weights and writes the folder of the run.

    The folder holds `model.keras`, `checkpoint.npz` (the official layout), `metrics.json`,
    `history.csv` and `recipe.json`.  Keras's global seed is set to the recipe's.

    A run that was stopped goes on where it was when the same call is given again, and ends with the
    same bits (`keras_vit.training.resume.ExactResume`).

    Args:
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`; None takes the recipe's.
        workdir: folder of the run.
        recipe: a name of `keras_vit.list_recipes()`, or a `Recipe`.
        model: a name of `keras_vit.list_models()` in the recipe's place, or a model of this package
            to start from; None makes the recipe's.
        data_dir: where TFDS keeps its data sets.
        train_split: the split to train on; `"trainval"`, of the data sets that have it, is the
            training and the validation split together, of which none is left for the reports.
        shots: trains on so many images of each class, chosen by the recipe's seed; None takes all.
        download: whether a TFDS data set that is not there may be downloaded.
        max_bad_fraction: the largest share of a split's images that may be bad; they are found by
            decoding all before the training, listed in `skipped.jsonl` and left out.  None checks
            nothing before: the first bad image stops the run.
        overwrite: whether a finished run in `workdir` may be replaced, or one that was stopped and
            differs in anything.
        checkpoint_steps: steps between two states that the run can go on from; there is one at each
            report anyway.
        progress: whether to show the progress, on stderr.
        strategy: on which devices, as `keras_vit.training.strategy.place` takes it.
        **overrides: fields of the recipe to change.

    Returns:
        A `RunResult`.

    Raises:
        ValueError: for an unknown data set, recipe or field, a value out of range, an empty data
            set or a model whose classes are not those of the data set.
        BadDataError: for more bad images than `max_bad_fraction` allows.
        FileExistsError: if `workdir` holds a finished run, or one that was stopped and differs, and
            `overwrite` is False.
        BlockingIOError: if another process is training in `workdir`.
        TrainingError: if the loss, the gradient or a weight is not finite, nothing is written; or
            if another worker is lost or cannot go on.
        OSError: if `workdir` cannot be written.
    """
    folder.check_workdir(workdir)
    placement = place(strategy)
    if isinstance(model, str):
        overrides, model = {**overrides, "model": model}, None
    data, recipe = resolve_task(
        dataset,
        recipe,
        overrides,
        train_split,
        shots,
        skipped=pathlib.Path(workdir) / SKIPPED if placement.workers.is_chief else None,
        data_dir=data_dir,
        download=download,
        max_bad_fraction=max_bad_fraction,
        progress=progress,
    )
    info = data.info

    def make_model():
        if model is not None:
            return _checked_model(model, info, recipe)
        if recipe.model is None:
            raise ValueError(
                "a pre-training's recipe must name its `model`, one of `keras_vit.list_models()`. "
                "Received: None; set it, or pass a model"
            )
        image_size = {} if recipe.image_size is None else {"image_size": recipe.image_size}
        return zoo.create_model(
            recipe.model,
            num_classes=info.num_classes,
            class_names=info.class_names,
            dtype=recipe.dtype,
            **image_size,
            **recipe.rates(),
            **_architecture(recipe),
        )

    options = {"checkpoint_steps": checkpoint_steps, "progress": progress}
    return execute("pretrain", data, workdir, recipe, make_model, placement, overwrite, **options)


@ending_at_once()
def finetune(
    source,
    dataset,
    workdir,
    *,
    recipe="digits_finetune",
    image_size=None,
    data_dir=None,
    train_split=TRAIN,
    shots=None,
    download=False,
    max_bad_fraction=None,
    overwrite=False,
    checkpoint_steps=None,
    progress=True,
    strategy=None,
    **overrides,
):
    """Trains a pre-trained model on another data set and writes the folder of the run.

    As in the paper (section 3.2), the head gives way to a linear one that starts at zero, and the
    position embeddings are interpolated to the new resolution.  The files are those of `pretrain`.

    Args:
        source: what `keras_vit.from_pretrained` takes, the folder of a run among them.
        image_size: (height, width) in pixels, or one integer; None takes the recipe's.
        dataset, workdir, recipe, data_dir, train_split, shots, download, max_bad_fraction,
            overwrite, checkpoint_steps, progress, strategy: as in `pretrain`.
        **overrides: fields of the recipe to change.

    Returns:
        A `RunResult`.

    Raises:
        CheckpointError: if `source` cannot be read.
        ValueError, BadDataError, FileExistsError, BlockingIOError, TrainingError, OSError: as
            `pretrain`.
    """
    folder.check_workdir(workdir)
    placement = place(strategy)
    if image_size is not None:
        overrides = {**overrides, "image_size": image_size}
    fixed = [field for field in ("model", *ARCHITECTURE_FIELDS) if field in overrides]
    if fixed:
        raise ValueError(
            "a fine-tuning takes its architecture from the file that it starts from. "
            f"Received: {', '.join(fixed)}"
        )
    data, recipe = resolve_task(
        dataset,
        recipe,
        overrides,
        train_split,
        shots,
        skipped=pathlib.Path(workdir) / SKIPPED if placement.workers.is_chief else None,
        data_dir=data_dir,
        download=download,
        max_bad_fraction=max_bad_fraction,
        progress=progress,
    )
    info = data.info

    def make_model():
        return zoo.from_pretrained(
            source,
            num_classes=info.num_classes,
            image_size=recipe.image_size,
            class_names=info.class_names,
            dtype=recipe.dtype,
            **recipe.rates(),
        )

    return execute(
        "finetune",
        data,
        workdir,
        recipe,
        make_model,
        placement,
        overwrite,
        checkpoint_steps=checkpoint_steps,
        progress=progress,
        source=os.fspath(source),
    )


def _architecture(recipe):
    """The fields of a new model's configuration that the recipe sets, by name."""
    fields = recipe.architecture()
    if fields.pop("representation_layer", False):
        _, preset = get_preset(recipe.model)
        fields["representation_size"] = fields.get("hidden_size", preset.hidden_size)
    return fields


def _checked_model(model, info, recipe):
    if not isinstance(model, ImageClassifier):
        raise TypeError(f"`model` must be a model of keras_vit. Received: {type(model).__name__}")
    check_classes(model, info)
    if recipe.image_size not in (None, model.config.image_size):
        raise ValueError(
            f"`model` must take images of the recipe's size {recipe.image_size}. "
            f"Received: one for {model.config.image_size}"
        )
    return model
