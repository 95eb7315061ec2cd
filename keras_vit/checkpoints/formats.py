"""All formats, how a file's is found, and how a file is written."""

import difflib
import os
import pathlib
import tempfile

import numpy as np

from keras_vit.checkpoints.bit import BIT
from keras_vit.checkpoints.errors import CheckpointError
from keras_vit.checkpoints.vit_jax import VIT_JAX

FORMATS = {format_.name: format_ for format_ in (VIT_JAX, BIT)}


def get_format(name):
    """The `Format` of a name.

    Raises:
        ValueError: for an unknown name; lists the close ones.
    """
    if name not in FORMATS:
        close = difflib.get_close_matches(str(name), FORMATS, n=3) or list(FORMATS)
        raise ValueError(f"unknown format. Received: {name!r}. Close: {', '.join(close)}")
    return FORMATS[name]


def find_format(path, keys):
    """The `Format` whose signature is among a file's keys.

    Raises:
        CheckpointError: if there is none, or more than one.
    """
    found = [
        format_
        for format_ in FORMATS.values()
        if any(prefix + format_.signature in keys for prefix in format_.prefixes)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(format_.name for format_ in found)
        raise CheckpointError(path, f"has the marks of several formats ({names}); give `format=`")
    marks = "; ".join(f"{f.name} has {f.signature!r}" for f in FORMATS.values())
    sample = ", ".join(sorted(keys)[:3])
    raise CheckpointError(path, f"of no known format: it holds {sample} ... ({marks})")


def write_npz(path, arrays):
    """Writes arrays beside `path` and renames the file when it is whole.

    Args:
        path: a file; replaced if it exists.
        arrays: key -> array.

    Raises:
        CheckpointError: if the folder cannot be written, or the disk is full.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {error.strerror}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
