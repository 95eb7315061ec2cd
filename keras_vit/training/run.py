"""Pre-training and fine-tuning: a recipe, a data set and a model in; the folder of a run out."""

import csv
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_vit import zoo
from keras_vit.data.waiting import WaitingShare
from keras_vit.evaluation.classification import check_classes, evaluate
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.presets import get_preset
from keras_vit.training import folder
from keras_vit.training.callbacks import TrainingError
from keras_vit.training.fit import fit
from keras_vit.training.recipes import ARCHITECTURE_FIELDS
from keras_vit.training.resume import ExactResume
from keras_vit.training.strategy import place
from keras_vit.training.task import TEST, TRAIN, VALIDATION, resolve_task

__all__ = ["RunResult", "TrainingError", "finetune", "pretrain"]

SKIPPED = "skipped.jsonl"


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
        TrainingError: if the loss, the gradient or a weight is not finite; nothing is written.
        OSError: if `workdir` cannot be written.
    """
    placement = place(strategy)
    if isinstance(model, str):
        overrides, model = {**overrides, "model": model}, None
    data, recipe = resolve_task(
        dataset,
        recipe,
        overrides,
        train_split,
        shots,
        skipped=pathlib.Path(workdir) / SKIPPED,
        data_dir=data_dir,
        download=download,
        max_bad_fraction=max_bad_fraction,
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
    return _run("pretrain", data, workdir, recipe, make_model, placement, overwrite, **options)


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
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`; None takes the recipe's.
        workdir: folder of the run.
        recipe: a name of `keras_vit.list_recipes()`, or a `Recipe`.
        image_size: (height, width) in pixels, or one integer; None takes the recipe's.
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
        CheckpointError: if `source` cannot be read.
        ValueError: for an unknown data set, recipe or field, a value out of range, or an empty data
            set.
        BadDataError: for more bad images than `max_bad_fraction` allows.
        FileExistsError: if `workdir` holds a finished run, or one that was stopped and differs, and
            `overwrite` is False.
        BlockingIOError: if another process is training in `workdir`.
        TrainingError: if the loss, the gradient or a weight is not finite; nothing is written.
        OSError: if `workdir` cannot be written.
    """
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
        skipped=pathlib.Path(workdir) / SKIPPED,
        data_dir=data_dir,
        download=download,
        max_bad_fraction=max_bad_fraction,
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

    return _run(
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


def _preprocessing(recipe, preprocessing):
    """What the model's pixels are, with the recipe's rule for evaluation if it has one."""
    if recipe.resize is None and recipe.resize_to is None:
        return preprocessing
    return dataclasses.replace(
        preprocessing, resize=recipe.resize or preprocessing.resize, resize_to=recipe.resize_to
    )


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


def _run(
    kind,
    data,
    workdir,
    recipe,
    make_model,
    placement,
    overwrite,
    *,
    checkpoint_steps,
    progress,
    **origin,
):
    """Everything that pre-training and fine-tuning share."""
    info = data.info
    num_examples = data.num_examples()
    total_steps = recipe.num_steps(num_examples)
    with placement.new_run(workdir, overwrite) as temporary, placement.scope():
        keras.utils.set_random_seed(recipe.seed)
        model = make_model()
        model.preprocessing = _preprocessing(recipe, model.preprocessing)
        facts = {
            "run": kind,
            "dataset": info.name,
            "train_split": data.train,
            "shots": data.shots,
            **origin,
        }
        config = {
            **facts,
            "num_train_examples": num_examples,
            "recipe": dataclasses.asdict(recipe),
            # Keras counts the models of a process in their names.
            "model": {**model.get_config(), "name": None},
            "backend": keras.backend.backend(),
        }
        # Several workers would have to agree on the state that they go on from.
        resume = placement.num_workers == 1 and ExactResume(
            pathlib.Path(workdir, folder.STATE),
            save_steps=checkpoint_steps,
            total_steps=total_steps,
            config=config,
            overwrite=overwrite,
        )
        # Where there are replicas, it is the strategy's own prefetching that waits.
        waiting = WaitingShare() if placement.num_replicas == 1 else None
        start = time.perf_counter()
        rows = fit(
            model,
            info,
            recipe,
            total_steps,
            train_split=data.train,
            validation_split=data.validation,
            shots=data.shots,
            title=kind,
            progress=progress,
            resume=resume or None,
            num_replicas=placement.num_replicas,
            waiting=waiting,
        )
        seconds = resume.seconds if resume else time.perf_counter() - start
        _check_finite(model)
        evaluations = {}
        if data.validation is not None:
            # The last report is of the weights that are written.
            last = {name: rows[-1][f"val_{name}"] for name in ("accuracy", "loss")}
            evaluations[VALIDATION] = {**last, "count": info.num_examples(data.validation)}
        if data.test is not None:
            evaluations[TEST] = evaluate(model, info, data.test, recipe.batch_size)
        metrics = {
            **facts,
            # No number where each step of the last report was refused.
            TRAIN: {n: v if np.isfinite(v := rows[-1][n]) else None for n in ("loss", "accuracy")},
            **evaluations,
            "num_train_examples": num_examples,
            "num_skipped": data.num_skipped,
            "num_parameters": model.count_params(),
            "steps": total_steps,
            "seconds": round(seconds, 3),
            "images_per_second": round(total_steps * recipe.batch_size / seconds, 1),
            "waiting_share": waiting and round(waiting.share, 4),
            "backend": keras.backend.backend(),
            "strategy": placement.name,
            "num_replicas": placement.num_replicas,
            "recipe": dataclasses.asdict(recipe),
        }
        _write(temporary, model, metrics, rows, recipe)
    workdir = pathlib.Path(workdir)
    files = {name: workdir / name for name in folder.FILES}
    return RunResult(workdir=workdir, metrics=metrics, files=files, model=model)


def _check_finite(model):
    bad = [v.path for v in model.weights if not np.all(np.isfinite(keras.ops.convert_to_numpy(v)))]
    if bad:
        raise TrainingError(
            f"the training ended with weights that are not finite, {bad[0]} among {len(bad)}; "
            "nothing was written. Lower `learning_rate`"
        )


def _write(temporary, model, metrics, rows, recipe):
    temporary.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it meanwhile
    recipe_json = json.dumps(dataclasses.asdict(recipe), indent=2)
    (temporary / "recipe.json").write_text(recipe_json + "\n")
    (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    with open(temporary / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    zoo.save_pretrained(model, temporary / "checkpoint.npz")
    model.save(temporary / "model.keras")
