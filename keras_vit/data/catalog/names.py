"""The data sets that are known by name, without any heavy import."""

import difflib
import fnmatch

from keras_vit.data.catalog import rows, vtab

_ROWS = {row.name: row for row in (*rows.ROWS, *vtab.ROWS)}


def list_datasets(pattern="*"):
    """The names of the table of data sets, each with its official splits and evaluation.

    `resolve` takes further names: those of TFDS's other data sets, and folders.

    Args:
        pattern: as `fnmatch` takes it, for instance "vtab/*".

    Returns:
        A list of names, in the order of the table.
    """
    return [name for name in _ROWS if fnmatch.fnmatchcase(name, pattern)]


def find_dataset(name):
    """The row of that name, a `table.Dataset`; None if there is none."""
    return _ROWS.get(name)


def get_dataset(name):
    """Returns the row of that name, a `table.Dataset`.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in _ROWS:
        close = difflib.get_close_matches(name, _ROWS)
        raise ValueError(
            f"`name` must be one of `list_datasets()`. Received: {name!r}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return _ROWS[name]


def builder_modules(base):
    """The modules that define the TFDS builder of that name, if it is one of ours."""
    return {
        row.builder
        for row in _ROWS.values()
        if row.builder and row.tfds.split("/")[0].split(":")[0] == base
    }
