"""Does the runs of an experiment, each in a folder of its own; what is finished is not repeated.

A run is finished when its `result.json` is there.  A training that was stopped goes on from its own
state, bit for bit (`keras_vit.training.resume`).
"""

import csv
import json
import pathlib
import time

import keras
from absl import logging

from keras_vit.data.splits import TEST
from keras_vit.files import write_whole
from keras_vit.paper.plan import config_of, sweeps
from keras_vit.paper.work import CHECKPOINT, EVALUATE, FEW_SHOT, FINETUNE, PRETRAIN
from keras_vit.training import run_folder

RESULT = "result.json"
_PRIVATE = ("JFT-300M",)


def check_runs(experiment):
    """Raises ValueError for a run that nobody outside can do, before any is done."""
    private = [run.name for run in experiment.runs if run.dataset in _PRIVATE]
    if private:
        raise ValueError(
            f"a run's data set must be public. Received: {private[0]} on {_PRIVATE[0]}, and "
            f"{len(private) - 1} more; plan it, run it with `scale='tiny'`, or name other models, "
            "your own file in the place of the pre-trained one for example"
        )


def execute(experiment, workdir, *, perform=None, data_dir=None, download=False, progress=True):
    """Does what is not finished.

    Args:
        experiment: `Experiment`.
        workdir: Folder of all its runs.
        perform: A function from a run, its folder, the source of the model that it starts from and
            `options` to its numbers; None takes `perform_run`.
        data_dir: Where TFDS keeps its data sets.
        download: Whether a data set that is not there may be downloaded.
        progress: Whether to show the progress on stderr.

    Returns:
        A dict from the name of each run to its result: `numbers` and `seconds`.

    Raises:
        ValueError: For a run's folder that another plan wrote.
        As `keras_vit.finetune` and the evaluators: what comes to a run stops the experiment, which
        goes on there when it is given again.
    """
    workdir = pathlib.Path(workdir)
    perform = perform or perform_run
    options = {"data_dir": data_dir, "download": download, "progress": progress}
    results = {}
    for i, run in enumerate(experiment.runs):
        folder = workdir / "runs" / run.name
        found = read_result(folder, run)
        if found is None:
            logging.info("%d of %d: %s", i + 1, len(experiment.runs), run.name)
            folder.mkdir(parents=True, exist_ok=True)
            source = _source(experiment, run, workdir)
            start = time.monotonic()
            numbers = perform(run, folder, source, options)
            found = {
                "run": run.name,
                "digest": run.digest(),
                "numbers": {name: float(value) for name, value in numbers.items()},
                "seconds": round(time.monotonic() - start, 1),
            }
            write_whole(folder / RESULT, json.dumps(found, indent=2, allow_nan=False) + "\n")
        results[run.name] = found
    return results


def read_result(folder, run):
    """The result of a finished run; None where it is not finished.

    Raises:
        ValueError: If the folder's result is that of another run.
    """
    path = pathlib.Path(folder) / RESULT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"a run's result must be JSON. Received: {path}: {error}") from error
    if found.get("digest") != run.digest():
        raise ValueError(
            f"a work directory holds the runs of one plan. Received: {path}, of another scale or "
            "version; choose another folder"
        )
    return found


def _source(experiment, run, workdir):
    """What `from_pretrained` takes for the model that a run starts from, or None."""
    if run.source is None:
        return run.checkpoint
    origin = next(other for other in experiment.runs if other.name == run.source)
    return origin.checkpoint or str(workdir / "runs" / origin.name)


def perform_run(run, folder, source, options):
    """Does one run.

    Args:
        run: `Run`.
        folder: Its folder.
        source: What `keras_vit.from_pretrained` takes, or None.
        options: `data_dir`, `download` and `progress`.

    Returns:
        A dict of numbers.
    """
    return _PERFORM[run.kind](run, folder, source, options)


def _finished_training(folder):
    """The numbers of a training that was finished, but not written down as a run's."""
    metrics = folder / "metrics.json"
    if not (folder / run_folder.MODEL).exists():
        return None
    return _numbers(json.loads(metrics.read_text(encoding="utf-8")))


def _numbers(metrics):
    numbers = {"steps": metrics["steps"], "num_parameters": metrics["num_parameters"]}
    if TEST in metrics:
        numbers |= {name: metrics[TEST][name] for name in ("accuracy", "loss")}
    return numbers


def _pretrain(run, folder, source, options):
    from keras_vit.training.recipe_table import get_recipe
    from keras_vit.training.run import pretrain

    del source
    numbers = _finished_training(folder)
    if numbers is None:
        changes, evaluators = dict(run.changes), ()
        recipe = get_recipe(run.recipe, num_examples=1, **changes)
        model = run.model if not run.architecture else _own_architecture(run, recipe, options)
        if run.few_shot_dataset is not None:
            info = _resolve(run.dataset, options)
            steps = recipe.num_steps(info.num_examples(run.train_split))
            changes["report_steps"] = -(-steps // run.few_shot_points)
            evaluators = [_few_shot_of(run, run.few_shot_dataset, options, name=_CURVE)]
        result = pretrain(
            run.dataset,
            folder,
            recipe=run.recipe,
            model=model,
            train_split=run.train_split,
            evaluators=evaluators,
            **options,
            **changes,
        )
        numbers = _numbers(result.metrics)
    if run.few_shot_dataset is not None:
        numbers |= _curve(folder, run.shots)
    return numbers | _exaflops(run, numbers)


# The evaluator of a pre-training's few-shot numbers, as its history has it.
_CURVE = "few_shot"


def _curve(folder, shots):
    """few_shot_1 and so on, of each report of a finished training."""
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        rows = [row[f"{_CURVE}/{shots}shot"] for row in csv.DictReader(file)]
    return {f"{_CURVE}_{i}": float(value) for i, value in enumerate(rows, start=1)}


def _own_architecture(run, recipe, options):
    """The new model of a run that changes its preset's configuration, with the recipe's sizes."""
    from keras_vit.models.presets import get_preset
    from keras_vit.zoo.loading import create_model

    info = _resolve(run.dataset, options)
    fields = dict(run.architecture)
    if recipe.representation_layer and "representation_size" not in fields:
        preset = get_preset(run.model)
        fields["representation_size"] = fields.get("hidden_size", preset.hidden_size)
    if recipe.head_bias is not None:
        fields["head_bias"] = recipe.head_bias
    if recipe.image_size is not None:
        fields["image_size"] = recipe.image_size
    keras.utils.set_random_seed(recipe.seed)
    return create_model(
        run.model,
        num_classes=info.num_classes,
        class_names=info.class_names,
        dtype=recipe.dtype,
        **fields,
        **recipe.rates(),
    )


def _resolve(dataset, options):
    from keras_vit.data import pipeline

    return pipeline.resolve(dataset, options["data_dir"], download=options["download"])


def _exaflops(run, numbers):
    from keras_vit.models.cost import count_multiply_adds, pretraining_exaflops
    from keras_vit.training.recipe_table import get_recipe

    recipe = get_recipe(run.recipe, num_examples=1, **run.changes)
    config = config_of(run, image_size=recipe.image_size)
    seen = numbers["steps"] * recipe.batch_size
    return {"exaflops": pretraining_exaflops(count_multiply_adds(config), seen, 1)}


def _checkpoint(run, folder, source, options):
    """Nothing but reading it once, so that a file that is not there is said first."""
    from keras_vit.zoo.loading import from_pretrained

    del folder, options
    model = from_pretrained(source)
    return {"num_parameters": model.count_params()}


def _finetune(run, folder, source, options):
    from keras_vit.training.recipe_table import get_recipe
    from keras_vit.training.run import finetune
    from keras_vit.training.sweep import sweep

    numbers = _finished_training(folder)
    if numbers is not None:
        return numbers
    recipe = get_recipe(run.recipe, num_examples=1, **run.changes)
    if sweeps(run, recipe):
        result = sweep(source, run.dataset, folder, recipe=run.recipe, **options, **run.changes)
        return _numbers(result.final.metrics)
    result = finetune(
        source,
        run.dataset,
        folder,
        recipe=run.recipe,
        train_split=run.train_split,
        **options,
        **run.changes,
    )
    return _numbers(result.metrics)


def _evaluate(run, folder, source, options):
    from keras_vit.evaluators.classification import evaluate
    from keras_vit.zoo.loading import from_pretrained

    del folder
    return evaluate(from_pretrained(source), _resolve(run.dataset, options))


def _few_shot(run, folder, source, options):
    from keras_vit.zoo.loading import from_pretrained

    evaluator = _few_shot_of(run, run.dataset, options, cache_dir=folder / "features")
    metrics = evaluator.run(from_pretrained(source))
    return {"accuracy": metrics[f"{run.shots}shot"], **metrics}


def _few_shot_of(run, dataset, options, **fields):
    from keras_vit.evaluators.fewshot import FewShot

    return FewShot(dataset, shots=run.shots, train_split=run.few_shot_split, **fields, **options)


_PERFORM = {
    PRETRAIN: _pretrain,
    CHECKPOINT: _checkpoint,
    FINETUNE: _finetune,
    EVALUATE: _evaluate,
    FEW_SHOT: _few_shot,
}
