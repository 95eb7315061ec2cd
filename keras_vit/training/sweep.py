"""The paper's choice of a rate: each of a grid on the validation split, then all with the best."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from absl import logging

from keras_vit.data import integrity, pipeline
from keras_vit.data.splits import TRAINVAL, VALIDATION
from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.distribution.strategy import place
from keras_vit.progress import image_progress
from keras_vit.training import run_folder
from keras_vit.training.best import mode_of
from keras_vit.training.objectives.registry import task_of
from keras_vit.training.recipe_rules import RULES
from keras_vit.training.recipe_table import get_recipe
from keras_vit.training.run import RunResult, finetune


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep came to.

    Args:
        candidates: one dict for each rate, in the order of the grid: `learning_rate`, `accuracy`
            and `loss` on the validation split, `workdir`.
        learning_rate: the rate that was chosen.
        final: the `RunResult` of the final training.
    """

    candidates: tuple[Mapping[str, Any], ...]
    learning_rate: float
    final: RunResult


def sweep(
    source,
    dataset,
    workdir,
    *,
    recipe,
    data_dir=None,
    download=False,
    max_bad_fraction=None,
    overwrite=False,
    checkpoint_steps=None,
    progress=True,
    strategy=None,
    metric="validation/accuracy",
    callbacks=(),
    evaluators=(),
    **overrides,
):
    """Fine-tunes with each rate of a recipe's grid and trains finally with the best.

    As in the paper (B.1.1): the rate is the one with the highest accuracy on the validation split,
    which is held out of the training split, or with the highest value of another `metric`; of two
    alike the lower.  The final training uses both
    splits (`trainval`) where the data set has them as one; elsewhere it is that of the candidate.

    The candidates are runs of their own in `workdir/sweep/`.  A sweep that was stopped and is given
    again keeps those that are finished.

    Args:
        source: what `keras_vit.from_pretrained` takes.
        dataset: as in `keras_vit.finetune`; it needs a validation split.
        workdir: folder of the final run; `sweep.json` in it has the table.
        recipe: a name of `keras_vit.list_recipes()`, or a `Recipe`, with `learning_rates`.
        data_dir: where TFDS keeps its data sets.
        download: whether a TFDS data set that is not there may be downloaded.
        max_bad_fraction: as in `keras_vit.finetune`; `workdir/skipped.jsonl` lists what is left
            out.
        overwrite: whether finished runs may be replaced; without it they are kept.
        checkpoint_steps: as in `keras_vit.finetune`.
        progress: whether to show the progress, on stderr.
        strategy: on which devices, as `keras_vit.distribution.strategy.place` takes it.
        metric: `"name/key"` of what is maximised, or of losses and errors minimised; the name of an
            evaluator.
        callbacks: As in `keras_vit.finetune`.
        evaluators: As in `keras_vit.finetune`.
        **overrides: fields of the recipe to change.

    Returns:
        A `SweepResult`.

    Raises:
        ValueError: for a recipe without a grid, a data set without a validation split, or several
            workers; else as `finetune`.
    """
    run_folder.check_workdir(workdir)
    placement = place(strategy)
    if placement.workers.number > 1:
        raise ValueError(
            "a sweep must run in one process, which knows what is finished. Received: "
            f"{placement.workers.number} workers; train with each rate by itself"
        )
    if isinstance(recipe, str) and recipe in RULES:
        raise ValueError(f"a sweep needs a recipe with `learning_rates`. Received: {recipe}")
    recipe = get_recipe(recipe, **overrides)
    if not recipe.learning_rates:
        raise ValueError(
            "a sweep needs a recipe with `learning_rates`. Received: none; set them, for example "
            "`learning_rates=(0.003, 0.01, 0.03)`"
        )
    if not isinstance(recipe.optimizer, str) or recipe.schedule is not None:
        raise ValueError(
            "a sweep sets the learning rate of a recipe whose optimizer is a name. Received: "
            f"optimizer={recipe.optimizer!r}, schedule={recipe.schedule!r}"
        )
    evaluator, _, key = metric.partition("/")
    known = {VALIDATION, *(getattr(each, "evaluator", each).name for each in evaluators)}
    if not key or evaluator not in known:
        raise ValueError(
            f"`metric` must be NAME/KEY, the name one of {', '.join(sorted(known))}. "
            f"Received: {metric!r}"
        )
    info = recipe.dataset if dataset is None else dataset
    where, task = {"data_dir": data_dir, "download": download}, task_of(recipe.objective)
    # What is bad about a folder's names and links can be left out only while it is being listed.
    is_listed = isinstance(info, pipeline.DatasetInfo)
    if not is_listed and (max_bad_fraction is None or task not in (None, CLASSIFICATION)):
        info = pipeline.resolve(info, **where, task=task)
    workdir = pathlib.Path(workdir)
    if max_bad_fraction is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        run_folder.mark(workdir)
        info, _ = integrity.resolve_without_bad(
            info,
            max_bad_fraction=max_bad_fraction,
            report=workdir / run_folder.SKIPPED,
            progress=image_progress if progress else None,
            **where,
        )
    if evaluator == VALIDATION and VALIDATION not in info.split_sizes:
        raise ValueError(
            "a sweep needs a data set with a validation split. "
            f"Received: {info.name!r} with {sorted(info.split_sizes)}"
        )
    if (workdir / run_folder.MODEL).exists() and not overwrite:
        raise FileExistsError(
            f"{workdir} holds a finished run ({run_folder.MODEL}); choose another folder or pass "
            "`overwrite=True` (on the command line --overwrite)"
        )

    def train(rate, workdir, **options):
        rated = dataclasses.replace(recipe, learning_rate=rate)
        options |= {
            "checkpoint_steps": checkpoint_steps,
            "progress": progress,
            "strategy": placement,
            "callbacks": callbacks,
            "evaluators": evaluators,
        }
        return finetune(source, info, workdir, recipe=rated, **options)

    workdir.mkdir(parents=True, exist_ok=True)
    run_folder.mark(workdir)
    candidates = []
    for number, rate in enumerate(recipe.learning_rates):
        candidate = workdir / run_folder.SWEEP_CANDIDATES / f"learning_rate_{rate:g}"
        metrics = None if overwrite else _finished(candidate, source, info, recipe, rate)
        if metrics is None:
            logging.info("sweep: rate %g, %d of %d", rate, number + 1, len(recipe.learning_rates))
            metrics = train(rate, candidate, overwrite=overwrite).metrics
        measured = metrics.get(evaluator, {})
        if key not in measured:
            raise ValueError(
                f"`metric` must be one of {evaluator!r}: {', '.join(measured) or 'none'} in "
                f"{candidate}. Received: {metric!r}; pass `overwrite=True` where that was trained "
                "without the evaluator"
            )
        outcome = {n: v for n, v in metrics.get(VALIDATION, {}).items() if n != "count"}
        outcome |= {} if evaluator == VALIDATION else {metric: measured[key]}
        candidates.append({"learning_rate": rate, **outcome, "workdir": str(candidate)})
    chosen_by = key if evaluator == VALIDATION else metric
    sign = 1 if mode_of(metric) == "min" else -1
    best = min(candidates, key=lambda row: (sign * row[chosen_by], row["learning_rate"]))
    final_split = TRAINVAL if TRAINVAL in info.split_sizes else "train"
    if final_split == TRAINVAL:
        final = train(best["learning_rate"], workdir, train_split=TRAINVAL, overwrite=overwrite)
    else:
        final = _adopt(pathlib.Path(best["workdir"]), workdir, overwrite)
    table = {"chosen": best["learning_rate"], "final_split": final_split, "candidates": candidates}
    (workdir / run_folder.SWEEP_TABLE).write_text(json.dumps(table, indent=2) + "\n")
    return SweepResult(
        candidates=tuple(candidates), learning_rate=best["learning_rate"], final=final
    )


def _finished(workdir, source, info, recipe, rate):
    """The metrics of a finished candidate of the same sweep, else None.

    Raises:
        FileExistsError: for the candidate of another sweep.
    """
    if not (workdir / run_folder.MODEL).exists():
        return None
    metrics = json.loads((workdir / "metrics.json").read_text())
    rated = dataclasses.replace(recipe, learning_rate=rate).describe()
    expected = {"source": str(source), "dataset": info.name, "recipe": rated}
    expected = json.loads(json.dumps(expected))
    different = [name for name, value in expected.items() if metrics[name] != value]
    # A run of a version before does not tell its data.
    for split, known in metrics.get("data", {}).items():
        if split not in info.split_sizes or info.fingerprint([split]) != known:
            different.append(f"{split} data")
    if different:
        raise FileExistsError(
            f"{workdir} holds a run with another {' and '.join(different)}; choose another folder "
            "or pass `overwrite=True` (on the command line --overwrite)"
        )
    logging.info("sweep: rate %g is finished already", rate)
    return metrics


def _adopt(candidate, workdir, overwrite):
    """A candidate's files as those of the final run."""
    from keras_vit.zoo import loading

    with run_folder.new_run(workdir, overwrite) as temporary:
        for name in run_folder.present(candidate):
            shutil.copyfile(candidate / name, temporary / name)
    return RunResult(
        workdir=workdir,
        metrics=json.loads((workdir / "metrics.json").read_text()),
        files={name: workdir / name for name in run_folder.present(workdir)},
        model=loading.from_pretrained(workdir),
    )
