"""What `pretrain` and `finetune` have in common: flags, and the end of the command."""

import dataclasses
import json

from absl import flags

from keras_vit.cli import output
from keras_vit.data.splits import TEST
from keras_vit.distribution.strategy import STRATEGIES, place
from keras_vit.training.recipe_file import find_recipe
from keras_vit.training.recipe_overrides import parse_overrides
from keras_vit.training.run_folder import DESCRIPTIONS


def define(flag_values, recipe, workdir=None):
    """Defines the flags of a training.

    Args:
        flag_values: `absl.flags.FlagValues`.
        recipe: name of the default recipe, or None, which the command then says what it means.
        workdir: what the folder of the run is without `--workdir`, as text; None requires it.
    """
    flags.DEFINE_string(
        "dataset",
        None,
        "a TFDS name such as digits/upstream, a folder {train,validation,test}/<class>/<image>, or "
        "a folder <class>/<image>, which is split by the pictures' contents; the recipe's if it "
        "has one",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run" + (f"; {workdir} without" if workdir else ""),
        required=workdir is None,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "recipe",
        recipe,
        "a name of `keras-vit recipes`, a recipe.json of a run, or a Python file with a Recipe in "
        "it, FILE.py or FILE.py:NAME"
        + ("" if recipe else "; own_pictures without, which goes by their number and the device"),
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "train_split",
        "train",
        "the split to train on; trainval is train and validation together, where there is one",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "FIELD=VALUE: changes a field of the recipe, such as learning_rate=0.01; may be repeated",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "shots",
        None,
        "train on this many images of each class",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "task",
        None,
        list(TASKS),
        "what is learned, in the place of the recipe's objective; segmentation needs a folder "
        "SPLIT/images with SPLIT/masks",
        flag_values=flag_values,
    )
    define_data(flag_values)
    define_bad_fraction(flag_values)
    define_max_pixels(flag_values)
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "replace a finished run in the folder, or one that was stopped and differs",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "report",
        True,
        "write report.html into the folder at the end: curves, metrics, and what `keras-vit "
        "inspect` shows over 16 images; it needs Matplotlib and Pillow",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "tensorboard",
        False,
        "write the rows of the history into the folder's tensorboard/ too",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "measure_input_wait",
        False,
        "say in each report how fast it was and how long it waited for data",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "checkpoint_steps",
        None,
        "save what the run needs to go on every so many steps, not only at each report",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "strategy",
        "auto",
        list(STRATEGIES),
        "on which devices; auto takes the workers of TF_CONFIG or the processes of JAX, or all "
        "accelerators that are here",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "tpu", None, "name of a Cloud TPU, for --strategy=tpu", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "model_shards",
        2,
        "on how many devices --strategy=model_parallel splits each block",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("json", False, "print the metrics as JSON", flag_values=flag_values)


def define_data(flag_values):
    """Defines where data sets are, and whether they may be downloaded."""
    flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets", flag_values=flag_values)
    flags.DEFINE_boolean(
        "download",
        False,
        "download a TFDS data set that is not there",
        flag_values=flag_values,
    )


def define_max_pixels(flag_values):
    """Defines the largest image that is decoded."""
    flags.DEFINE_integer(
        "max_pixels",
        None,
        "the largest height x width of an image that is decoded, 2^28 by default; above 2^25 a "
        "JPEG is decoded at a half, a quarter or an eighth, and nothing else is decoded",
        lower_bound=1,
        flag_values=flag_values,
    )


def define_orientation(flag_values):
    """Defines whether photographs are turned."""
    flags.DEFINE_enum(
        "orientation",
        None,
        ["exif", "stored"],
        "exif turns photographs as their EXIF tag says, stored leaves them as they are in the "
        "file; by default what the model was made with, which officially is stored",
        flag_values=flag_values,
    )


def turn(model, flag_values):
    """Has a model's preprocessing follow the flag."""
    if flag_values.orientation is not None:
        orientation = "exif" if flag_values.orientation == "exif" else None
        model.preprocessing = dataclasses.replace(model.preprocessing, orientation=orientation)
    return model


def define_model(flag_values, without="", required=False):
    """Defines --model; `without` ends its text and says what is taken where none is named."""
    flags.DEFINE_string(
        "model",
        None,
        "a .keras file, an official checkpoint, the folder of a training run, or a name of "
        f"`keras-vit models --checkpoints`{without}",
        required=required,
        flag_values=flag_values,
    )


def define_bad_fraction(flag_values):
    """Defines how many bad images may be left out."""
    flags.DEFINE_float(
        "max_bad_fraction",
        None,
        "leave out bad images if no more than this share of a split is bad, 0.01 for example; all "
        "images are decoded once before the work; by default the first bad one stops it",
        lower_bound=0.0,
        upper_bound=0.999,
        flag_values=flag_values,
    )


# --task -> the recipe's objective.
TASKS = {
    "classification": "supervised",
    "multilabel": "multilabel",
    "regression": "regression",
    "segmentation": "segmentation",
}


def _task(flag_values):
    return {} if flag_values.task is None else {"objective": TASKS[flag_values.task]}


def arguments(flag_values):
    """The keyword arguments of `pretrain` and `finetune` that the flags give.

    Raises:
        ValueError: for a `--set` that is no field of a recipe, or ill-typed.
    """
    return {
        "recipe": None if flag_values.recipe is None else find_recipe(flag_values.recipe),
        "train_split": flag_values.train_split,
        "data_dir": flag_values.data_dir,
        "shots": flag_values.shots,
        "download": flag_values.download,
        "max_bad_fraction": flag_values.max_bad_fraction,
        "max_pixels": flag_values.max_pixels,
        "overwrite": flag_values.overwrite,
        "report": flag_values.report,
        "tensorboard": flag_values.tensorboard,
        "measure_input_wait": flag_values.measure_input_wait,
        "checkpoint_steps": flag_values.checkpoint_steps,
        **_task(flag_values),
        **parse_overrides(flag_values["set"].value),
    }


def placement(flag_values):
    """The `Placement` that the flags name; call it before anything else of TensorFlow.

    Raises:
        ValueError: as `keras_vit.distribution.strategy.place`.
    """
    return place(flag_values.strategy, tpu=flag_values.tpu, model_shards=flag_values.model_shards)


def _shown(values):
    """Pairs of what is printed of a split: not each class of a segmentation."""
    return [pair for pair in sorted(values.items()) if pair[0] != "count" and pair[0][:4] != "iou_"]


def print_result(title, result, as_json):
    """Prints what a run came to, and where everything was written.

    Args:
        title: one line.
        result: `keras_vit.training.run.RunResult`.
        as_json: whether to print `metrics.json` for machines instead.
    """
    from keras_vit.analysis.run_facts import next_commands

    if as_json:
        print(json.dumps(result.metrics))
        return
    metrics = result.metrics

    def number(name, value):
        return f"{name} not finite" if value is None else f"{name} {value:.4f}"

    rows = [
        (name, ", ".join(number(*pair) for pair in _shown(values)))
        for name, values in metrics.items()
        if isinstance(values, dict) and name not in DESCRIPTIONS
    ]
    work = f"{metrics['steps']} steps in {metrics['seconds']:.1f} s, "
    work += f"{metrics['images_per_second']:.0f} images/s"
    if metrics["waiting_share"] is not None:
        work += f", {100 * metrics['waiting_share']:.0f} % waiting for data"
    rows.append(("work", work))
    if metrics["num_skipped"]:
        rows.append(("left out", f"{metrics['num_skipped']} bad images, see skipped.jsonl"))
    rows += [(name, path) for name, path in result.files.items()]
    dataset = metrics["dataset"] if TEST in metrics else None
    rows += next_commands(result.workdir, dataset)
    output.print_summary(title, rows)
