"""Pre-training and fine-tuning: a recipe, a data set and a model in; the folder of a run out."""

import dataclasses
import functools
import hashlib
import inspect
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from keras_vit.data import pipeline
from keras_vit.data.images import preprocess
from keras_vit.data.splits import TRAIN
from keras_vit.data.tasks import REGRESSION
from keras_vit.distribution.placement import Placement
from keras_vit.distribution.strategy import has_accelerator, place
from keras_vit.distribution.workers import ending_at_once
from keras_vit.errors import TrainingError
from keras_vit.evaluators.base import check_evaluators
from keras_vit.evaluators.classification import check_classes
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.pixel_model import network_of
from keras_vit.models.presets import get_preset
from keras_vit.training import run_folder
from keras_vit.training.evaluation import RESERVED
from keras_vit.training.loop import RunResult, train
from keras_vit.training.objectives.registry import objective_of, task_of, uses_labels
from keras_vit.training.recipe import ARCHITECTURE_FIELDS, Recipe
from keras_vit.training.recipe_rules import RULES, default_recipe
from keras_vit.training.recipe_table import get_recipe
from keras_vit.training.training_data import TrainingData, resolve_data
from keras_vit.training.tuning import check_kind
from keras_vit.zoo import loading

__all__ = ["Run", "RunOptions", "RunResult", "TrainingError", "finetune", "pretrain"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The keyword arguments that `pretrain` and `finetune` share, beside the recipe.

    Args:
        data_dir: Where TFDS keeps its data sets.
        train_split: The split to train on; `"trainval"`, of the data sets that have it, is the
            training and the validation split together, of which none is left for the reports.
        shots: Trains on so many images of each class, chosen by the recipe's seed; None takes all.
        download: Whether a TFDS data set that is not there may be downloaded.
        max_bad_fraction: The largest share of a split's images that may be bad; they are found by
            decoding all before the training, listed in `skipped.jsonl` and left out.  None checks
            nothing before: the first bad image stops the run.
        max_pixels: The largest height x width of an image that is decoded; None takes 2^28.
        overwrite: Whether a finished run in `workdir` may be replaced, or one that was stopped and
            differs in anything.
        checkpoint_steps: Steps between two states that the run can be resumed from; there is one at
            each report anyway.
        progress: Whether to show the progress, on stderr.
        strategy: On which devices, as `keras_vit.distribution.strategy.place` takes it.
        callbacks: Keras callbacks; an epoch of theirs is a report.
        evaluators: What is measured with each report beside accuracy and loss on the validation
            split, objects of the protocol `keras_vit.evaluators.base.Evaluator`, or `Every`.
        report: Whether `report.html` is written into the folder at the end, as `keras-vit inspect`
            writes it, over up to 16 images of the test or validation split.
        tensorboard: Whether the history is written into the folder's `tensorboard` too.
        measure_input_wait: Whether `metrics.json` says how long the steps waited for data, and each
            report how fast it was (`keras_vit.training.speed.Speed`), which costs a call of Python
            for each batch.
    """

    data_dir: str | os.PathLike | None = None
    train_split: str = TRAIN
    shots: int | None = None
    download: bool = False
    max_bad_fraction: float | None = None
    max_pixels: int | None = None
    overwrite: bool = False
    checkpoint_steps: int | None = None
    progress: bool = True
    strategy: Any = None
    callbacks: Any = ()
    evaluators: Any = ()
    report: bool = False
    tensorboard: bool = False
    measure_input_wait: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training, made once; `keras_vit.training.loop.train` runs it.

    Args:
        kind: "pretrain" or "finetune".
        data: `TrainingData`.
        recipe: `Recipe`.
        make_model: Makes the model, in the scope of the strategy.
        placement: `Placement`.
        workdir: Folder of the run.
        options: `RunOptions`.
        source: What the model is loaded from; None for random weights.
        has_weights: Whether it has trained weights.
    """

    kind: str
    data: TrainingData
    recipe: Recipe
    make_model: Callable[[], ImageClassifier]
    placement: Placement
    workdir: pathlib.Path
    options: RunOptions
    source: str | None = None
    has_weights: bool = False

    @property
    def total_steps(self):
        """The number of updates."""
        return self.recipe.num_steps(self.data.num_examples())

    def order(self):
        """What decides which examples a step has."""
        recipe = self.recipe
        return {
            "batch_size": recipe.batch_size,
            "seed": recipe.seed,
            "shots": self.data.shots,
            "sampling": recipe.sampling,
        }

    def describe_examples(self, step):
        """Which examples a step has, counted from 0, as text."""
        info, split = self.data.info, self.data.train
        indices = pipeline.example_indices(info, split, step=step, **self.order())
        return f"the examples {', '.join(map(str, indices))} of {info.name} {split}"

    def identity(self):
        """What the run is called by in `metrics.json`."""
        return {
            "run": self.kind,
            "dataset": self.data.info.name,
            "train_split": self.data.train,
            "shots": self.data.shots,
            **({} if self.source is None else {"source": self.source}),
        }

    def data_fingerprints(self):
        """What changes with the data that the run trains on and validates with, by split."""
        splits = [s for s in (self.data.train, self.data.validation) if s is not None]
        return {split: self.data.info.fingerprint([split]) for split in splits}

    def config(self, model):
        """What a run that resumes must have in common with the one that was stopped."""
        return {
            **self.identity(),
            "num_train_examples": self.data.num_examples(),
            "data": self.data_fingerprints(),
            "recipe": self.recipe.describe(),
            # Keras counts the models of a process in their names.
            "model": {**model.get_config(), "name": None},
            "weights": _digest(model) if self.has_weights else None,
            "backend": keras.backend.backend(),
        }


def _takes_options(function):
    """Names the fields of `RunOptions` in the signature of a function that takes them."""
    signature = inspect.signature(function)
    *own, overrides = signature.parameters.values()
    fields = inspect.signature(RunOptions).parameters.values()
    shared = [field.replace(annotation=inspect.Parameter.empty) for field in fields]

    @functools.wraps(function)
    def wrapper(*args, **keywords):
        return function(*args, **keywords)

    wrapper.__signature__ = signature.replace(parameters=[*own, *shared, overrides])
    return wrapper


@_takes_options
@ending_at_once()
def pretrain(dataset, workdir, *, recipe="digits_pretrain", model=None, **options):
    """Trains a model from random weights and writes the folder of the run.

    The folder holds `model.keras`, `checkpoint.npz` (the official layout), `metrics.json`,
    `history.csv` and `recipe.json`.  Keras's global seed is set to the recipe's.

    Rerun with the same workdir to resume a run that was stopped; it ends with the same bits
    (`keras_vit.training.resume.exact_resume.ExactResume`).

    Args:
        dataset: A name, a folder, a list or data of one's own, as
            `keras_vit.data.pipeline.resolve` takes it; None takes the recipe's.
        workdir: Folder of the run.
        recipe: A name of `keras_vit.list_recipes()`, a `Recipe`, a run's own `recipe.json`, or a
            Python file with a `Recipe` in it, `FILE.py` or `FILE.py:NAME`, which is run.
        model: A name of `keras_vit.list_models()` in the recipe's place, or a model of this package
            to start from; None makes the recipe's.
        **options: Fields of `keras_vit.training.run.RunOptions` and of the recipe, which say what
            they are.  `objective`, `loss`, `metrics`, `optimizer`, `schedule` and `augmentation`
            may be objects.

    Returns:
        A `RunResult`.

    Raises:
        ValueError: For an unknown data set, recipe or field, a value out of range, an empty data
            set or a model whose classes are not those of the data set.
        BadDataError: For more bad images than `max_bad_fraction` allows.
        FileExistsError: If `workdir` holds a finished run, or one that was stopped and differs, and
            `overwrite` is False.
        BlockingIOError: If another process is training in `workdir`.
        TrainingError: If the loss, the gradient or a weight is not finite, nothing is written; or
            if another worker is lost or cannot go on.
        OSError: If `workdir` cannot be written.
    """
    if isinstance(model, str):
        options, model = {**options, "model": model}, None

    def make_model(info, recipe):
        if model is not None:
            return _checked_model(model, info, recipe)
        if recipe.model is None:
            raise ValueError(
                "a pre-training's recipe must name its `model`, one of `keras_vit.list_models()`. "
                "Received: None; set it, or pass a model"
            )
        image_size = {} if recipe.image_size is None else {"image_size": recipe.image_size}
        return loading.create_model(
            recipe.model,
            **_head(info, recipe),
            dtype=recipe.dtype,
            **image_size,
            **recipe.rates(),
            **_architecture(recipe),
        )

    run = _make_run("pretrain", dataset, workdir, recipe, make_model, options)
    return train(dataclasses.replace(run, has_weights=model is not None))


@_takes_options
@ending_at_once()
def finetune(source, dataset, workdir, *, recipe=None, image_size=None, **options):
    """Trains a pre-trained model on another data set and writes the folder of the run.

    As in the paper (section 3.2), the head gives way to a linear one that starts at zero, and the
    position embeddings are interpolated to the new resolution.  The files are those of `pretrain`;
    with LoRA (`tune="lora:8"`) the model is an ordinary one, with what was learned in its kernels,
    and `adapter_model.safetensors` and `adapter_config.json` beside it are the adapter alone.

    Args:
        source: What `keras_vit.from_pretrained` takes, the folder of a run among them.
        recipe: As in `pretrain`; None takes `"own_pictures"`, which chooses by the number of
            pictures and the device, and for the embedded digits `"digits_finetune"`.
        image_size: (height, width) in pixels, or one integer; None takes the recipe's.
        dataset, workdir, **options: As in `pretrain`.

    Returns:
        A `RunResult`.

    Raises:
        CheckpointError: If `source` cannot be read.
        ValueError, BadDataError, FileExistsError, BlockingIOError, TrainingError, OSError: As
            `pretrain`.
    """
    recipe = default_recipe(dataset, options.get("objective")) if recipe is None else recipe
    if image_size is not None:
        options = {**options, "image_size": image_size}
    fixed = [field for field in ("model", *ARCHITECTURE_FIELDS) if field in options]
    if fixed:
        raise ValueError(
            "a fine-tuning takes its architecture from the file that it starts from. "
            f"Received: {', '.join(fixed)}"
        )

    def make_model(info, recipe):
        return loading.from_pretrained(
            source,
            **_head(info, recipe),
            image_size=recipe.image_size,
            dtype=recipe.dtype,
            **recipe.rates(),
        )

    run = _make_run("finetune", dataset, workdir, recipe, make_model, options)
    return train(dataclasses.replace(run, source=os.fspath(source), has_weights=True))


def _make_run(kind, dataset, workdir, recipe, make_model, options):
    """The `Run` of a call; the folder and the recipe are checked before the data are looked for."""
    run_folder.check_workdir(workdir)
    names = [field.name for field in dataclasses.fields(RunOptions)]
    given = RunOptions(**{name: options[name] for name in names if name in options})
    overrides = {name: value for name, value in options.items() if name not in names}
    check_evaluators(given.evaluators, RESERVED)
    placement = place(given.strategy)
    workdir = pathlib.Path(workdir)
    is_rule = isinstance(recipe, str) and recipe in RULES
    if not is_rule:
        recipe = _checked_recipe(kind, get_recipe(recipe, **overrides))
        dataset = recipe.dataset if dataset is None else dataset
    if dataset is None:
        raise ValueError("a training must have a data set. Received: None; name one")
    chief_workdir = workdir if placement.workers.is_chief else None
    objective = overrides.get("objective", "supervised") if is_rule else recipe.objective
    needs_labels = is_rule or uses_labels(recipe)
    resolve = None if is_rule else getattr(objective_of(recipe), "resolve", None)
    task = task_of(objective)
    data = resolve_data(dataset, given, chief_workdir, needs_labels, task, resolve)
    if is_rule:
        facts = {
            "num_examples": data.num_examples(),
            "source_size": data.info.image_size,
            "has_accelerator": has_accelerator(),
        }
        name, recipe = recipe, _checked_recipe(kind, get_recipe(recipe, **facts, **overrides))
        logging.info("recipe %s: %s", name, _in_words(recipe, data.num_examples()))
    return Run(
        kind=kind,
        data=data,
        recipe=recipe,
        make_model=lambda: make_model(data.info, recipe),
        placement=placement,
        workdir=workdir,
        options=given,
    )


def _in_words(recipe, num_examples):
    """What a rule has chosen, and how to change it."""
    steps = recipe.num_steps(num_examples)
    epochs = steps * recipe.batch_size / max(num_examples, 1)
    return (
        f"{recipe.source}: {steps} steps of {recipe.batch_size} images ({epochs:.3g} times each), "
        f"{recipe.optimizer} at {recipe.learning_rate:g}, augmentation {recipe.augmentation}; "
        "change a field with --set=FIELD=VALUE, such as augmentation=none where left and right "
        "or the border tell classes apart"
    )


def _checked_recipe(kind, recipe):
    check_kind(kind, recipe)
    augmentation = preprocess.get_augmentation(recipe.augmentation)
    if augmentation.mixes and task_of(recipe.objective) == REGRESSION:
        raise ValueError(
            "an augmentation that mixes images needs classes or labels, and a regression has "
            f"values. Received: {recipe.augmentation!r}"
        )
    return recipe


def _head(info, recipe):
    """The arguments of a model that decide its head: none where no labels are learned."""
    if not uses_labels(recipe):
        return {"num_classes": 0}
    return {"num_classes": info.num_classes, "class_names": info.class_names}


def _architecture(recipe):
    """The fields of a new model's configuration that the recipe sets, by name."""
    fields = recipe.architecture()
    if fields.pop("representation_layer", False):
        preset = get_preset(recipe.model)
        fields["representation_size"] = fields.get("hidden_size", preset.hidden_size)
    return fields


def _checked_model(model, info, recipe):
    model = network_of(model)
    if not isinstance(model, ImageClassifier):
        raise TypeError(f"`model` must be a model of keras_vit. Received: {type(model).__name__}")
    if uses_labels(recipe):
        check_classes(model, info)
    if recipe.image_size not in (None, model.config.image_size):
        raise ValueError(
            f"`model` must take images of the recipe's size {recipe.image_size}. "
            f"Received: one for {model.config.image_size}"
        )
    return model


def _digest(model):
    """SHA-256 of the weights that come from a file as they are, in hexadecimal digits.

    Not of those that are resized or made anew for the data set, which another processor may round
    differently.
    """
    content = hashlib.sha256()
    for variable in model.trainable_variables:
        if variable.path.startswith(_CHANGED_AT_LOAD):
            continue
        content.update(variable.path.encode())
        content.update(keras.ops.convert_to_numpy(variable).tobytes())
    return content.hexdigest()


_CHANGED_AT_LOAD = ("embedding/", "posembed_", "head/", "conv_root/", "root_conv/")
