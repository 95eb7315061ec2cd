"""`keras-vit datasets`: the data sets with official splits, by the names that `--dataset` takes."""

import json

from absl import flags

from keras_vit.cli import output
from keras_vit.cli.errors import UsageError
from keras_vit.names import close_names

SUMMARY = "list the data sets with official splits; any other TFDS name and folders work too"
USAGE = "keras-vit datasets [FLAGS] [PATTERN]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_boolean("json", False, "print one JSON object a line", flag_values=flag_values)


def run(flag_values, arguments):
    """Prints one line for each name that the pattern matches."""
    from keras_vit.data.catalog.names import get_dataset, list_datasets

    if len(arguments) > 1:
        raise UsageError(
            f"datasets takes one pattern, such as 'vtab/*'. Received: {' '.join(arguments)}"
        )
    pattern = arguments[0] if arguments else "*"
    rows = [_row(get_dataset(name)) for name in list_datasets(pattern)]
    if not rows:
        close = close_names(pattern, list_datasets(), cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`*` stands for any text"
        raise UsageError(f"no name matches {pattern!r}; {hint}")
    if flag_values.json:
        for row in rows:
            print(json.dumps(row))
        return
    output.print_table([{key: _cell(value) for key, value in row.items()} for row in rows])


def _row(dataset):
    from keras_vit.data.catalog.rows import SPLITS

    # A split whose size nobody has published is there, with none.
    sizes = {split: dataset.sizes.get(split) for split in dataset.splits}
    return {
        "name": dataset.name,
        "tfds": dataset.tfds,
        "classes": dataset.num_classes,
        **{split: sizes.get(split, 0) for split in SPLITS},
        "evaluation": dataset.evaluation,
        "source": dataset.source,
    }


def _cell(value):
    return {None: "?", 0: "-"}.get(value, str(value))
