"""The files of a run: its metrics, its history, its recipe and its model."""

import csv
import dataclasses
import json

import keras
import numpy as np
from absl import logging

from keras_vit.data.splits import TRAIN
from keras_vit.errors import TrainingError
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.segmentation import SegmentationModel
from keras_vit.training import run_folder
from keras_vit.zoo import loading
from keras_vit.zoo.saving import why_no_format

_REPORT_IMAGES = 16


def preprocessing(recipe, preprocessing):
    """The model's preprocessing, with the recipe's rule for evaluation if it has one."""
    if recipe.orientation is not None:
        preprocessing = dataclasses.replace(preprocessing, orientation=recipe.orientation)
    if recipe.resize is None and recipe.resize_to is None:
        return preprocessing
    return dataclasses.replace(
        preprocessing, resize=recipe.resize or preprocessing.resize, resize_to=recipe.resize_to
    )


def check_finite(model):
    """Raises TrainingError for weights that are not finite."""
    bad = [v.path for v in model.weights if not np.all(np.isfinite(keras.ops.convert_to_numpy(v)))]
    if bad:
        raise TrainingError(
            f"the training ended with weights that are not finite, {bad[0]} among {len(bad)}; "
            "nothing was written. Lower `learning_rate`"
        )


def metrics(run, objective, model, rows, results, state, waiting):
    """What `metrics.json` holds.

    Args:
        run: `keras_vit.training.run.Run`.
        objective: `Objective`.
        model: The trained model.
        rows: One dict for each report, up to that of the weights that are written.
        results: Evaluator -> its last numbers.
        state: `ExactResume`, which knows the steps and the seconds.
        waiting: `WaitingShare`, or None.
    """
    last = rows[-1] if rows else {}
    names = [metric.name for metric in run.recipe.metrics or objective.metrics()]
    return {
        **run.identity(),
        # No number where each step of the last report was refused.
        TRAIN: {n: _finite_or_none(last[n]) for n in ("loss", *names) if n in last},
        **results,
        "num_train_examples": run.data.num_examples(),
        "data": run.data_fingerprints(),
        "num_skipped": run.data.num_skipped,
        **({"findings": list(run.data.findings)} if run.data.findings else {}),
        "num_parameters": model.count_params(),
        "steps": state.step,
        **({} if run.recipe.monitor is None else {"written_step": last.get("step")}),
        "seconds": round(state.seconds, 3),
        "images_per_second": round(state.step * run.recipe.batch_size / state.seconds, 1),
        "waiting_share": waiting and round(waiting.share, 4),
        "backend": keras.backend.backend(),
        "strategy": run.placement.name,
        "num_replicas": run.placement.num_replicas,
        "recipe": run.recipe.describe(),
    }


def _finite_or_none(value):
    return value if np.isfinite(value) else None


def write(folder, model, metrics, rows, recipe, adapter=None):
    """Writes the files of a run.

    Args:
        folder: Temporary folder of the run.
        model: The trained model.
        metrics: Of `metrics`.
        rows: One dict for each report.
        recipe: `Recipe`.
        adapter: `keras_vit.zoo.adapters.Adapter` of LoRA, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it meanwhile
    (folder / "recipe.json").write_text(json.dumps(recipe.describe(), indent=2) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    # An evaluator that does not run with each report has empty cells.
    names = dict.fromkeys(name for row in rows for name in row)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
    if isinstance(model, ImageClassifier):
        reasons = why_no_format(model)
    else:
        reasons = [f"a {type(model).__name__}"]
    if reasons:
        logging.info("no %s: no format holds %s", run_folder.CHECKPOINT, ", ".join(reasons))
    else:
        loading.save_pretrained(model, folder / run_folder.CHECKPOINT)
    if adapter is not None and not reasons:
        adapter.write(folder)
    model.save(folder / "model.keras")


def paths(workdir):
    """Path of each file of a finished run, by name."""
    optional = (*run_folder.ADAPTER, run_folder.SPLIT, run_folder.REPORT)
    found = [name for name in optional if (workdir / name).is_file()]
    return {name: workdir / name for name in (*run_folder.present(workdir), *found)}


def write_report(run, model):
    """Writes `report.html` into the folder of a finished run.

    Args:
        run: `keras_vit.training.run.Run`.
        model: The trained model.
    """
    from keras_vit.analysis import report
    from keras_vit.analysis.pictures import read_photographs

    if not isinstance(model, ImageClassifier | SegmentationModel):
        logging.info("no %s: it is about classes of images and pixels", run_folder.REPORT)
        return
    split = run.data.test or run.data.validation or run.data.train
    paths = run.data.info.source.paths(split)
    photographs = None
    if paths:
        # From all classes alike, which follow one another.
        chosen = np.linspace(0, len(paths) - 1, min(_REPORT_IMAGES, len(paths))).astype(int)
        photographs = read_photographs([paths[i] for i in chosen], model.preprocessing)
    report.write_report(run.workdir, model, photographs=photographs)
