"""Files that appear whole or not at all, and what a command says at its end."""

import json
import os
import pathlib

from keras_vit import files
from keras_vit.cli.errors import CommandError, UsageError
from keras_vit.untrusted import printable

# Paths may be this long.
_MAX_CELL = 4_096


def check_output_path(path, flag="--output"):
    """Returns the path of an output as a `pathlib.Path`; UsageError if it is empty.

    Args:
        path: What was given.
        flag: How it was given, for the message.
    """
    try:
        files.check_not_empty_path(path, flag)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return pathlib.Path(path)


def check_new_file(path, overwrite):
    """Returns the path of an output before the work begins, so that no work is lost.

    Args:
        path: of the file to write.
        overwrite: whether it may exist.

    Raises:
        UsageError: for an empty path, which is what an unset shell variable gives.
        CommandError: if it exists and must not be overwritten, or its folder cannot be written.
    """
    path = check_output_path(path)
    if path.is_dir():
        raise CommandError(f"{path} is a folder; a file is expected")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists; choose another name or pass --overwrite")
    check_writable_folder(path.parent)
    return path


def check_writable_folder(path):
    """Raises CommandError unless files can be made in the folder, or in the nearest that exists."""
    path = pathlib.Path(path).absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise CommandError(f"{path} is a file; a folder is expected")
    if not os.access(path, os.W_OK | os.X_OK):
        raise CommandError(f"{path} cannot be written")


def write_json(path, value):
    """Writes a JSON file for people and machines, atomically; NaN is refused."""
    files.write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_summary(title, rows):
    """Prints the end of a command: what was done, and where everything was written.

    Args:
        title: one line.
        rows: pairs of a label and what it stands for.
    """
    rows = [(printable(label), printable(value, _MAX_CELL)) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    print(printable(title, _MAX_CELL))
    for label, value in rows:
        print(f"  {label:{width}}  {value}")


def print_table(rows):
    """Prints rows under their columns' names, aligned.

    Args:
        rows: dicts with the same keys; None and "" are shown as "-".
    """
    texts = [
        [name, *("-" if row[name] in (None, "") else printable(row[name]) for row in rows)]
        for name in rows[0]
    ]
    widths = [max(map(len, column)) for column in texts]
    for cells in zip(*texts, strict=True):
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip())
