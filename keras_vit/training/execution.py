"""One training, from the folder that is taken to the files that are published."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_vit import zoo
from keras_vit.data.waiting import WaitingShare
from keras_vit.evaluation.classification import evaluate
from keras_vit.models.classifier import ImageClassifier
from keras_vit.training import folder
from keras_vit.training.callbacks import TrainingError
from keras_vit.training.fit import fit
from keras_vit.training.resume import ExactResume
from keras_vit.training.task import TEST, TRAIN, VALIDATION


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


def execute(
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
    """Trains a model in a run's folder.

    Args:
        kind: "pretrain" or "finetune".
        data: `TrainingData`.
        workdir: folder of the run.
        recipe: `Recipe`.
        make_model: makes the model, in the scope of the strategy.
        placement: `Placement`.
        overwrite: whether what is in `workdir` may be replaced.
        checkpoint_steps: steps between two states, beside those at the reports; or None.
        progress: whether to show the progress.
        **origin: what else `metrics.json` says about where the model comes from.

    Returns:
        A `RunResult`.

    Raises:
        FileExistsError, BlockingIOError, TrainingError, OSError: as `keras_vit.pretrain`.
    """
    info = data.info
    num_examples = data.num_examples()
    total_steps = recipe.num_steps(num_examples)
    with placement.scope(), placement.new_run(workdir, overwrite) as temporary:
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
        resume = ExactResume(
            pathlib.Path(workdir, folder.STATE),
            save_steps=checkpoint_steps,
            total_steps=total_steps,
            config=config,
            overwrite=overwrite,
            workers=placement.workers,
        )
        # Under the strategies of TensorFlow it is their own prefetching that waits.
        is_read_by_steps = placement.num_replicas == 1 or keras.backend.backend() == "jax"
        waiting = WaitingShare() if is_read_by_steps else None
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
            resume=resume,
            num_replicas=placement.num_replicas,
            data_shard=placement.data_shard,
            waiting=waiting,
        )
        seconds = resume.seconds
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
        if placement.workers.is_chief:
            _write(temporary, model, metrics, rows, recipe)
    workdir = pathlib.Path(workdir)
    files = {name: workdir / name for name in folder.FILES}
    return RunResult(workdir=workdir, metrics=metrics, files=files, model=model)


def _preprocessing(recipe, preprocessing):
    """What the model's pixels are, with the recipe's rule for evaluation if it has one."""
    if recipe.resize is None and recipe.resize_to is None:
        return preprocessing
    return dataclasses.replace(
        preprocessing, resize=recipe.resize or preprocessing.resize, resize_to=recipe.resize_to
    )


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
