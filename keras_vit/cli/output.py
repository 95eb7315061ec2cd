"""Files that appear whole or not at all, and what a command says at its end."""

import contextlib
import json
import os
import pathlib

from keras_vit.cli.errors import CommandError


def check_new_file(path, overwrite):
    """Returns the path of an output before the work begins, so that no work is lost.

    Args:
        path: of the file to write.
        overwrite: whether it may exist.

    Raises:
        CommandError: if it exists and must not be overwritten, or its folder cannot be written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise CommandError(f"{path} is a folder; a file is expected")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists; choose another name or pass --overwrite")
    check_writable_folder(path.parent)
    return path


def check_new_folder(path, overwrite):
    """Returns the path of an output folder: it must be new, empty, or meant to be overwritten.

    Args:
        path: of the folder to write into.
        overwrite: whether it may hold something.

    Raises:
        CommandError: if it holds something, is a file, or cannot be written.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise CommandError(f"{path} is a file; a folder is expected")
    check_writable_folder(path)
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise CommandError(f"{path} is not empty; choose another folder or pass --overwrite")
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


def write_text(path, text):
    """Writes a file under a temporary name beside it, and renames it when it is on the disk."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path, value):
    """Writes a JSON file for people and machines, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_summary(title, rows):
    """Prints the end of a command: what was done, and where everything was written.

    Args:
        title: one line.
        rows: pairs of a label and what it stands for.
    """
    rows = [(str(label), str(value)) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    print(title)
    for label, value in rows:
        print(f"  {label:{width}}  {value}")


def print_table(rows):
    """Prints rows under their columns' names, aligned.

    Args:
        rows: dicts with the same keys; None and "" are shown as "-".
    """
    texts = [
        [name, *("-" if row[name] in (None, "") else str(row[name]) for row in rows)]
        for name in rows[0]
    ]
    widths = [max(map(len, column)) for column in texts]
    for cells in zip(*texts, strict=True):
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip())
