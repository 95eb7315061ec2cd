"""Folders that a command writes into and goes on in: of one work, one process, marked as ours."""

import contextlib
import json
import pathlib

from keras_vit import files

MARKER, _LOCK = ".keras_vit_output.json", ".keras_vit_output.lock"
_FORMAT = "keras_vit.output/1"
_MAX_BYTES = 1 << 30


@contextlib.contextmanager
def claim(folder, work, pattern, overwrite=False):
    """Makes a folder, or takes one that the same work has begun; keeps other processes out.

    What matches `pattern` in the block is of this work: files of other work of ours are deleted.

    Args:
        folder: Path of the folder.
        work: What identifies the work, a dict that JSON can write: model, options, files.
        pattern: Of the names of files that say what is done, "*.npz" for instance.
        overwrite: Whether a folder of other work of this package may be begun anew.

    Raises:
        ValueError: For an empty path, a folder that holds files and no mark of this package, or
            without `overwrite` one of other work; the message says what differs.
        BlockingIOError: If another process writes into it.
        OSError: If it cannot be written.
    """
    files.check_not_empty_path(folder, "the output folder")
    folder = pathlib.Path(folder)
    marker = folder / MARKER
    folder.mkdir(parents=True, exist_ok=True)
    is_ours = marker.is_file()
    if not is_ours and any(path.name != _LOCK for path in folder.iterdir()):
        raise ValueError(
            f"the output must be a new or an empty folder, or one that this command began. "
            f"Received: {folder}, which holds other files; name another one"
        )
    work = {"format": _FORMAT, **work}
    with files.lock(folder / _LOCK):
        before = _read(marker) if marker.is_file() else None
        if before is not None and before != work and not overwrite:
            differences = [key for key in work if before.get(key) != work[key]]
            raise ValueError(
                f"{folder} was begun with other work. Received: another {', '.join(differences)}; "
                "name another folder, or begin anew with `overwrite=True` (--overwrite)"
            )
        if before != work:
            for path in folder.glob(pattern):  # before the mark, in case that this ends between
                path.unlink()
            files.write_whole(marker, json.dumps(work))
        yield


def _read(marker):
    """What the marker says; {} for one that is damaged."""
    try:
        before = json.loads(files.read_regular(marker, _MAX_BYTES, follow_links=False))
    except (ValueError, RecursionError):
        return {}
    return before if isinstance(before, dict) else {}
