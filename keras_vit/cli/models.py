"""`keras-vit models`: what `--model` and `create_model` understand."""

import dataclasses
import difflib
import json

from absl import flags

from keras_vit.cli.errors import UsageError

SUMMARY = "list the models that can be made, or the official checkpoints"
USAGE = "keras-vit models [FLAGS] [PATTERN]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_boolean(
        "checkpoints", False, "list the official checkpoints instead", flag_values=flag_values
    )
    flags.DEFINE_boolean("json", False, "print one JSON object a line", flag_values=flag_values)


def run(flag_values, arguments):
    """Prints one line for each name that the pattern matches."""
    if len(arguments) > 1:
        raise UsageError(
            f"models takes one pattern, such as 'R50*'. Received: {' '.join(arguments)}"
        )
    pattern = arguments[0] if arguments else "*"
    rows = _checkpoint_rows(pattern) if flag_values.checkpoints else _model_rows(pattern)
    if not rows:
        every_row = _checkpoint_rows("*") if flag_values.checkpoints else _model_rows("*")
        close = difflib.get_close_matches(pattern, [row["name"] for row in every_row], cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`*` stands for any text"
        raise UsageError(f"no name matches {pattern!r}; {hint}")
    if flag_values.json:
        for row in rows:
            print(json.dumps(row))
        return
    columns = {name: [name, *(_cell(name, row[name]) for row in rows)] for name in rows[0]}
    widths = [max(map(len, cells)) for cells in columns.values()]
    for cells in zip(*columns.values(), strict=True):
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip())


def _cell(column, value):
    if isinstance(value, tuple | list):
        value = ("x" if column == "patch_size" else "-").join(map(str, value))
    return "-" if value in (None, "") else str(value)


def _model_rows(pattern):
    from keras_vit.models.presets import get_preset, list_models

    fields = ("patch_size", "hidden_size", "mlp_dim", "num_heads", "depth", "stage_depths")
    rows = []
    for name in list_models(pattern):
        model_class, config = get_preset(name)
        values = {field: getattr(config, field, None) for field in fields}
        rows.append({"name": name, "family": model_class.__name__, **values})
    return rows


def _checkpoint_rows(pattern):
    from keras_vit.checkpoints.catalog import get_checkpoint, list_checkpoints

    fields = ("name", "architecture", "image_size", "num_classes", "accuracy", "training")
    checkpoints = [dataclasses.asdict(get_checkpoint(name)) for name in list_checkpoints(pattern)]
    return [{field: checkpoint[field] for field in fields} for checkpoint in checkpoints]
