"""`keras-vit models`: what `--model` and `create_model` understand, with size and accuracy.

GFLOPs are multiply-adds in billions for one image (`keras_vit.models.cost`).
"""

import json

from absl import flags

from keras_vit.cli.errors import UsageError
from keras_vit.cli.published_models import TASKS, published_rows, task_of
from keras_vit.names import close_names

SUMMARY = "list the models that can be made, or the official checkpoints, and what they cost"
USAGE = "keras-vit models [FLAGS] [PATTERN]"

# Columns of numbers: what stands above them.
HEADERS = {
    "image_size": "pixels",
    "num_classes": "classes",
    "num_params": "params",
    "gflops": "GFLOPs",
    "accuracy": "top-1",
    "finetuned_accuracy": "fine-tuned",
}
CELLS = {
    "num_params": lambda value: f"{value / 1e6:.1f}M",
    "gflops": lambda value: f"{value:.1f}",
    "accuracy": lambda value: f"{value:.1f}",
    "finetuned_accuracy": lambda value: f"{value:.1f}",
}


# Of the repositories whose files the catalogue has, and of this package.
OFFICIAL_LICENCE = "apache-2.0"
# Flag -> whether a row is what it asks for.
FILTERS = {
    "task": lambda row, task: row["task"] == task,
    "max_params": lambda row, most: row["num_params"] and row["num_params"] <= most * 1e6,
    "licence": lambda row, licence: row["licence"] == licence,
}


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_boolean(
        "checkpoints",
        False,
        "list the official checkpoints instead: top-1 is ImageNet accuracy of the file in percent, "
        "fine-tuned that after fine-tuning it",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "hub",
        False,
        "list what timm publishes on the hub instead; with --checkpoints or without",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "task",
        None,
        TASKS,
        "of checkpoints, those with a head of classes, or those of features alone",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "max_params",
        None,
        "of checkpoints, those with at most so many million parameters",
        lower_bound=0.0,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "licence",
        None,
        "of checkpoints, those of this licence, such as apache-2.0",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("json", False, "print one JSON object a line", flag_values=flag_values)


def run(flag_values, arguments):
    """Prints one line for each name that the pattern matches."""
    if len(arguments) > 1:
        raise UsageError(
            f"models takes one pattern, such as 'R50*'. Received: {' '.join(arguments)}"
        )
    pattern = arguments[0] if arguments else "*"
    rows_of = model_rows
    if flag_values.hub or flag_values.checkpoints:
        rows_of = published_rows if flag_values.hub else checkpoint_rows
    rows = rows_of(pattern)
    filters = {name: getattr(flag_values, name) for name in FILTERS}
    asked = {name: value for name, value in filters.items() if value is not None}
    if asked and rows_of is model_rows:
        raise UsageError(f"--{next(iter(asked))} is of checkpoints: add --checkpoints or --hub")
    if rows and asked:
        kept = [row for row in rows if all(FILTERS[n](row, v) for n, v in asked.items())]
        if not kept:
            words = " ".join(f"--{name}={value}" for name, value in asked.items())
            raise UsageError(f"none of {len(rows)} checkpoints has {words}")
        rows = kept
    if not rows:
        every_row = rows_of("*")
        close = close_names(pattern, [row["name"] for row in every_row], cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`*` stands for any text"
        raise UsageError(f"no name matches {pattern!r}; {hint}")
    if flag_values.json:
        for row in rows:
            print(json.dumps(row))
        return
    columns = {
        name: [HEADERS.get(name, name), *(_cell(name, row[name]) for row in rows)]
        for name in rows[0]
        if rows_of is not checkpoint_rows or name not in ("licence", "task")
    }
    widths = [max(map(len, cells)) for cells in columns.values()]
    for cells in zip(*columns.values(), strict=True):
        print("  ".join(map(_aligned, columns, cells, widths)).rstrip())


def _aligned(column, cell, width):
    return f"{cell:>{width}}" if column in HEADERS else f"{cell:{width}}"


def _cell(column, value):
    if isinstance(value, tuple | list):
        value = ("x" if column == "patch_size" else "-").join(map(str, value))
    if value in (None, ""):
        return "-"
    return CELLS.get(column, str)(value)


def model_rows(pattern):
    """Name -> value of every column, for each model that a pattern matches."""
    from keras_vit.models.presets import get_preset, list_models

    fields = ("patch_size", "hidden_size", "mlp_dim", "num_heads", "depth", "stage_depths")
    rows = []
    for name in list_models(pattern):
        config = get_preset(name)
        values = {field: getattr(config, field, None) for field in fields}
        family = type(config).__name__.removesuffix("Config")
        rows.append({"name": name, "family": family, **_cost(config), **values})
    return rows


def checkpoint_rows(pattern):
    """Name -> value of every column, for each official file that a pattern matches."""
    from keras_vit.checkpoints.catalog.lookup import get_checkpoint, list_checkpoints

    rows = []
    for name in list_checkpoints(pattern):
        row = get_checkpoint(name)
        known = {} if row.num_params is None else {"num_params": row.num_params}
        rows.append(
            {
                "name": name,
                "architecture": row.architecture,
                "image_size": row.image_size,
                "num_classes": row.num_classes,
                **_cost(_config(row)),
                **known,
                "accuracy": row.accuracy,
                "finetuned_accuracy": row.finetuned_accuracy,
                "training": row.training,
                "licence": OFFICIAL_LICENCE,
                "task": task_of(row.num_classes),
            }
        )
    return rows


def _cost(config):
    from keras_vit.models import cost

    return {
        "num_params": cost.count_parameters(config),
        "gflops": round(cost.count_multiply_adds(config) / 1e9, 3),
    }


def _config(row):
    """The configuration of the model in an official file."""
    from keras_vit.models.fields import replace_fields
    from keras_vit.models.presets import get_preset, list_models

    name, _, patch_size = row.architecture.rpartition("/")
    changes = {"num_classes": row.num_classes, "image_size": (row.image_size, row.image_size)}
    if not name:
        return replace_fields(get_preset(row.architecture), changes)
    if row.representation_layer:
        changes["representation_size"] = get_preset(f"{name}/{patch_size}").hidden_size
    if not row.class_token:
        changes |= {"class_token": False, "pooling": "mean"}
    # A patch size that is no preset's (ViT-B/30).
    if row.architecture not in list_models(f"{name}/*"):
        changes["patch_size"] = int(patch_size)
        return replace_fields(get_preset(f"{name}/16"), changes)
    return replace_fields(get_preset(row.architecture), changes)
