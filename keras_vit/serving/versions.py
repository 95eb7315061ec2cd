"""TensorFlow Serving's folders: versions that appear whole or not at all."""

import contextlib
import os
import pathlib
import re
import shutil
import uuid

from keras_vit import files

MODEL_FILE = "saved_model.pb"
# What a server takes as a version: a folder of this name, a 64-bit number.
_VERSION = re.compile(r"[0-9]{1,18}")


@contextlib.contextmanager
def new_version(directory):
    """A folder to write into that becomes the next version of `directory` if the block succeeds.

    A server that watches `directory` takes folders with a number for a name, and never sees half of
    one: it is written under another name, and renamed when all of it is on the disk.  If the block
    fails, what was in `directory` before is still there and nothing else.

    Args:
        directory: folder of the versions; it is made if needed.

    Yields:
        `(temporary, publish)`: the `pathlib.Path` to write into, and a function that gives it its
        number and returns the path that it has then.

    Raises:
        ValueError: for an empty path.
        OSError: if the folder cannot be written.
    """
    files.check_not_empty_path(directory, "the export's folder")
    directory = pathlib.Path(directory)
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    temporary = directory / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        yield temporary, lambda: _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # those that are not empty stay
            for folder in missing:
                folder.rmdir()


def _publish(temporary, directory):
    for path in (*temporary.rglob("*"), temporary):
        files.sync(path)
    version = next_version(directory)
    while True:
        target = directory / str(version)
        try:
            os.rename(temporary, target)
        except OSError:
            # Another export took the number; anything else is an error.
            if not target.exists():
                raise
            version += 1
            continue
        files.sync(directory)
        return target


def next_version(directory):
    """One above the highest version in a folder; 1 where there is none."""
    names = (path.name for path in pathlib.Path(directory).iterdir())
    return 1 + max((int(name) for name in names if _VERSION.fullmatch(name)), default=0)


def latest_version(directory):
    """The folder of the highest version, or the folder itself if it is a SavedModel.

    Raises:
        FileNotFoundError: if there is none.
    """
    directory = pathlib.Path(directory)
    if (directory / MODEL_FILE).is_file():
        return directory
    if directory.is_dir():
        highest = directory / str(next_version(directory) - 1)
        if (highest / MODEL_FILE).is_file():
            return highest
    raise FileNotFoundError(
        f"there is no SavedModel: neither {directory}/{MODEL_FILE} nor a version below it"
    )


def folder_bytes(folder):
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
