"""Pre-training and fine-tuning: a recipe, a data set and a model in; the folder of a run out."""

import csv
import dataclasses
import json
import os
import pathlib
import time
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_vit import zoo
from keras_vit.data import pipeline, preprocess
from keras_vit.evaluation.classification import check_classes, evaluate
from keras_vit.models.classifier import ImageClassifier
from keras_vit.training import folder
from keras_vit.training.callbacks import (
    Progress,
    RequireFiniteLoss,
    StopAfter,
    TrainingError,
    Validation,
)
from keras_vit.training.losses import LOSSES
from keras_vit.training.optimizers import make_optimizer, make_schedule
from keras_vit.training.recipes import ARCHITECTURE_FIELDS, get_recipe

__all__ = ["RunResult", "TrainingError", "finetune", "pretrain"]

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to.

    Args:
        workdir: its folder.
        metrics: what `metrics.json` holds.
        files: path of each file, by name.
        model: the trained model, not compiled.
    """

    workdir: pathlib.Path
    metrics: Mapping[str, Any]
    files: Mapping[str, pathlib.Path]
    model: ImageClassifier = dataclasses.field(repr=False)


def pretrain(
    dataset,
    workdir,
    *,
    recipe="digits_pretrain",
    model=None,
    data_dir=None,
    shots=None,
    download=False,
    overwrite=False,
    progress=True,
    **overrides,
):
    """Trains a model from random weights and writes the folder of the run.

    The folder holds `model.keras`, `checkpoint.npz` (the official layout), `metrics.json`,
    `history.csv` and `recipe.json`.  Keras's global seed is set to the recipe's.

    Args:
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`.
        workdir: folder of the run.
        recipe: a name in `keras_vit.training.recipes.RECIPES`, or a `Recipe`.
        model: a name of `keras_vit.list_models()` in the recipe's place, or a model of this package
            to start from; None makes the recipe's.
        data_dir: where TFDS keeps its data sets.
        shots: trains on so many images of each class, chosen by the recipe's seed; None takes all.
        download: whether a TFDS data set that is not there may be downloaded.
        overwrite: whether a finished run in `workdir` may be replaced.
        progress: whether to show the progress, on stderr.
        **overrides: fields of the recipe to change.

    Returns:
        A `RunResult`.

    Raises:
        ValueError: for an unknown data set, recipe or field, a value out of range, an empty data
            set or a model whose classes are not those of the data set.
        FileExistsError: if `workdir` holds a finished run and `overwrite` is False.
        TrainingError: if the loss or a weight is not finite; nothing is written.
        OSError: if `workdir` cannot be written.
    """
    if isinstance(model, str):
        overrides, model = {**overrides, "model": model}, None
    recipe = _checked_recipe(recipe, overrides)
    info = _resolved(dataset, data_dir, download)

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
            **recipe.architecture(),
        )

    return _run("pretrain", info, workdir, recipe, make_model, shots, overwrite, progress)


def finetune(
    source,
    dataset,
    workdir,
    *,
    recipe="digits_finetune",
    image_size=None,
    data_dir=None,
    shots=None,
    download=False,
    overwrite=False,
    progress=True,
    **overrides,
):
    """Trains a pre-trained model on another data set and writes the folder of the run.

    As in the paper (section 3.2), the head gives way to a linear one that starts at zero, and the
    position embeddings are interpolated to the new resolution.  The files are those of `pretrain`.

    Args:
        source: what `keras_vit.from_pretrained` takes, the folder of a run among them.
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`.
        workdir: folder of the run.
        recipe: a name in `keras_vit.training.recipes.RECIPES`, or a `Recipe`.
        image_size: (height, width) in pixels, or one integer; None takes the recipe's.
        data_dir: where TFDS keeps its data sets.
        shots: trains on so many images of each class, chosen by the recipe's seed; None takes all.
        download: whether a TFDS data set that is not there may be downloaded.
        overwrite: whether a finished run in `workdir` may be replaced.
        progress: whether to show the progress, on stderr.
        **overrides: fields of the recipe to change.

    Returns:
        A `RunResult`.

    Raises:
        CheckpointError: if `source` cannot be read.
        ValueError: for an unknown data set, recipe or field, a value out of range, or an empty data
            set.
        FileExistsError: if `workdir` holds a finished run and `overwrite` is False.
        TrainingError: if the loss or a weight is not finite; nothing is written.
        OSError: if `workdir` cannot be written.
    """
    if image_size is not None:
        overrides = {**overrides, "image_size": image_size}
    fixed = [field for field in ("model", *ARCHITECTURE_FIELDS) if field in overrides]
    if fixed:
        raise ValueError(
            "a fine-tuning takes its architecture from the file that it starts from. "
            f"Received: {', '.join(fixed)}"
        )
    recipe = _checked_recipe(recipe, overrides)
    info = _resolved(dataset, data_dir, download)

    def make_model():
        return zoo.from_pretrained(
            source,
            num_classes=info.num_classes,
            image_size=recipe.image_size,
            class_names=info.class_names,
            dtype=recipe.dtype,
            **recipe.rates(),
        )

    return _run(
        "finetune",
        info,
        workdir,
        recipe,
        make_model,
        shots,
        overwrite,
        progress,
        source=os.fspath(source),
    )


def _checked_recipe(recipe, overrides):
    recipe = get_recipe(recipe, **overrides)
    preprocess.get_augmentation(recipe.augmentation)
    return recipe


def _resolved(dataset, data_dir, download):
    if isinstance(dataset, pipeline.DatasetInfo):
        return dataset
    return pipeline.resolve(dataset, data_dir, download=download)


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


def _run(kind, info, workdir, recipe, make_model, shots, overwrite, progress, **origin):
    """Everything that pre-training and fine-tuning share."""
    num_examples = info.num_examples(TRAIN) if shots is None else shots * info.num_classes
    total_steps = recipe.num_steps(num_examples)
    with folder.new_run(workdir, overwrite) as temporary:
        keras.utils.set_random_seed(recipe.seed)
        model = make_model()
        start = time.perf_counter()
        rows = fit(model, info, recipe, total_steps, shots=shots, title=kind, progress=progress)
        seconds = time.perf_counter() - start
        _check_finite(model)
        evaluations = {}
        if VALIDATION in info.split_sizes:
            # The last report is of the weights that are written.
            last = {name: rows[-1][f"val_{name}"] for name in ("accuracy", "loss")}
            evaluations[VALIDATION] = {**last, "count": info.num_examples(VALIDATION)}
        if TEST in info.split_sizes:
            evaluations[TEST] = evaluate(model, info, TEST, recipe.batch_size)
        metrics = {
            "run": kind,
            "dataset": info.name,
            "shots": shots,
            **origin,
            TRAIN: {name: rows[-1][name] for name in ("loss", "accuracy")},
            **evaluations,
            "num_train_examples": num_examples,
            "num_parameters": model.count_params(),
            "steps": total_steps,
            "seconds": round(seconds, 3),
            "images_per_second": round(total_steps * recipe.batch_size / seconds, 1),
            "backend": keras.backend.backend(),
            "recipe": dataclasses.asdict(recipe),
        }
        _write(temporary, model, metrics, rows, recipe)
    workdir = pathlib.Path(workdir)
    files = {name: workdir / name for name in folder.FILES}
    return RunResult(workdir=workdir, metrics=metrics, files=files, model=model)


def fit(model, info, recipe, total_steps, *, shots=None, title="training", progress=True):
    """Compiles a model by a recipe and trains it with `model.fit`; it is not compiled afterwards.

    Args:
        model: a model of this package; it is changed in place.
        info: a `DatasetInfo`.
        recipe: `Recipe`.
        total_steps: number of updates.
        shots: images of each class, or None for all.
        title: of the progress bar.
        progress: whether to show it.

    Returns:
        A list with one dict for each `recipe.report_steps` updates: `step`, `learning_rate`, `loss`
        and `accuracy` in training, `val_loss` and `val_accuracy` where there is a validation split.

    Raises:
        TrainingError: if the loss is not finite.
    """
    training = pipeline.training_dataset(
        info,
        TRAIN,
        model.preprocessing,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augmentation=recipe.augmentation,
        shots=shots,
    )
    optimizer = make_optimizer(recipe, total_steps)
    # Else its variables are made inside the first step, which TensorFlow then traces twice.
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer=optimizer,
        loss=LOSSES[recipe.loss](label_smoothing=recipe.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    callbacks = [RequireFiniteLoss(), StopAfter(total_steps)]
    if VALIDATION in info.split_sizes:
        callbacks.append(Validation(info, VALIDATION, recipe.batch_size))
    bar = Progress(total_steps, title)
    num_reports = -(-total_steps // recipe.report_steps)
    try:
        with warnings.catch_warnings():
            # Keras warns of its own default, `shuffle=True`.
            warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
            history = model.fit(
                training,
                epochs=num_reports,
                steps_per_epoch=recipe.report_steps,
                callbacks=[*callbacks, bar] if progress else callbacks,
                verbose=0,
            ).history
    finally:
        bar.close()
    # What is trained is saved without the optimizer, like what `from_pretrained` returns.
    model.optimizer, model.compiled = None, False
    schedule = make_schedule(recipe, total_steps)
    rows = []
    for i in range(num_reports):
        step = min((i + 1) * recipe.report_steps, total_steps)
        # The rate of the last update, whose step is counted from 0.
        row = {"step": step, "learning_rate": float(schedule(step - 1))}
        rows.append(row | {name: float(values[i]) for name, values in history.items()})
    return rows


def _check_finite(model):
    bad = [v.path for v in model.weights if not np.all(np.isfinite(keras.ops.convert_to_numpy(v)))]
    if bad:
        raise TrainingError(
            f"the training ended with weights that are not finite, {bad[0]} among {len(bad)}; "
            "nothing was written. Lower `learning_rate`"
        )


def _write(temporary, model, metrics, rows, recipe):
    recipe_json = json.dumps(dataclasses.asdict(recipe), indent=2)
    (temporary / "recipe.json").write_text(recipe_json + "\n")
    (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    with open(temporary / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    zoo.save_pretrained(model, temporary / "checkpoint.npz")
    model.save(temporary / "model.keras")
