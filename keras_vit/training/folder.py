"""The folder of a run: one process at a time; its files appear together, each of them whole.

A folder that this package writes into holds the file `MARKER`.  Nothing is replaced or deleted in a
folder without it, and nothing in it but what this module names.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import uuid

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from absl import logging

# In the order in which they appear: a folder that has the model has everything.
FILES = ("recipe.json", "history.csv", "metrics.json", "checkpoint.npz", "model.keras")
MODEL = FILES[-1]
# While it is trained: the states that it can go on from.
STATE = "state"
# What a sweep writes beside these.
SWEEP_TABLE, SWEEP_CANDIDATES = "sweep.json", "sweep"
OUTPUTS = (*FILES, STATE, SWEEP_TABLE, SWEEP_CANDIDATES)
MARKER = ".keras_vit_run"
_MARKER_TEXT = "This folder was written by keras_vit, which may replace the files of a run in it.\n"
_TEMPORARY = ".tmp-"
_held = {}  # folder -> descriptor, of this process


def check_workdir(path):
    """Raises unless a path names a folder that this package may write a run into.

    Args:
        path: Path of the folder; it may be missing.

    Raises:
        ValueError: for an empty path, which is what an unset shell variable gives.
        FileExistsError: for a folder with one of `OUTPUTS` that is not marked as a run's.
    """
    if not os.fspath(path):
        raise ValueError(
            f"the path of a run's folder must not be empty. Received: {path!r}; write . for the "
            "current folder"
        )
    path = pathlib.Path(path)
    names = [name for name in OUTPUTS if os.path.lexists(path / name)]
    if names and not (path / MARKER).is_file():
        raise FileExistsError(
            f"{path} holds {names[0]}, and nothing says that keras_vit wrote it; choose another "
            f"folder. If it is from a version before 0.2, create an empty file {MARKER} there"
        )


def mark(path):
    """Marks a folder as one that this package writes into."""
    marker = pathlib.Path(path) / MARKER
    if not marker.is_file():
        marker.write_text(_MARKER_TEXT)


def _remove_states(path):
    """Removes the states in a folder, and the folder if nothing else is in it."""
    if path.is_symlink():
        return
    for pattern in ("step_*.npz", ".step_*.npz.*"):
        for state in path.glob(pattern):
            with contextlib.suppress(OSError):
                state.unlink()
    _remove_empty([path])


def _remove_unfinished(workdir):
    """Removes the temporary folders of processes that were killed, by their marker."""
    for path in workdir.glob(f"{_TEMPORARY}*"):
        if not path.is_symlink() and (path / MARKER).is_file():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def new_run(workdir, overwrite=False):
    """A temporary folder inside `workdir` whose files are moved there if the block succeeds.

    It is made at once, so that a folder that cannot be written is found before the work; if the
    block fails, what was in `workdir` before is still there, and beside it only the states
    (`STATE`) that the block has written, from which the run can go on; if it succeeds they go.

    Args:
        workdir: folder of the run; it is made if needed.
        overwrite: whether a model that is there may be replaced.

    Yields:
        `pathlib.Path` of the temporary folder, into which the block writes all of `FILES`.

    Raises:
        ValueError: for an empty path.
        FileExistsError: if there is a model and it must not be replaced, or a file of a run's name
            in a folder that this package has not marked.
        BlockingIOError: if another process uses the folder.
        OSError: if the folder cannot be made, or is a file.
    """
    check_workdir(workdir)
    workdir = pathlib.Path(workdir)
    if (workdir / MODEL).exists() and not overwrite:
        raise FileExistsError(
            f"{workdir} holds a finished run ({MODEL}); choose another folder or pass "
            "`overwrite=True` (on the command line --overwrite)"
        )
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(workdir))
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    temporary = workdir / f"{_TEMPORARY}{uuid.uuid4().hex}"
    finished = False
    try:
        _make(workdir)
        hold(workdir)
    except OSError:
        _remove_empty(missing)
        raise
    try:
        mark(workdir)
        _remove_unfinished(workdir)
        temporary.mkdir()
        mark(temporary)
        yield temporary
        _publish(temporary, workdir)
        _remove_states(workdir / STATE)
        finished = True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not finished:
            _remove_empty([workdir / STATE])
            if not any(os.path.lexists(workdir / name) for name in OUTPUTS):
                (workdir / MARKER).unlink(missing_ok=True)
            _remove_empty(missing)
        release(workdir / STATE)
        release(workdir)


def hold(folder):
    """Keeps other processes out of a folder until `release`, or until this one ends.

    Raises:
        BlockingIOError: if another one has it.
    """
    folder = os.path.realpath(folder)
    if fcntl is None or folder in _held:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(error.errno, "another process is training in it", folder) from None
    except OSError as error:
        os.close(descriptor)
        logging.warning("%s cannot be locked: %s", folder, error.strerror)
    else:
        _held[folder] = descriptor


def release(folder):
    """Undoes `hold`, if this process has the folder."""
    descriptor = _held.pop(os.path.realpath(folder), None)
    if descriptor is not None:
        os.close(descriptor)


def _make(workdir):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Named by the folder that the user knows.
        raise OSError(error.errno, error.strerror, str(workdir)) from error


def _remove_empty(folders):
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _publish(temporary, workdir):
    for name in FILES:
        sync(temporary / name)
    mark(workdir)  # again, if somebody has deleted the folder meanwhile
    # An older model goes first, so that it is never seen beside the files of the newer run.
    (workdir / MODEL).unlink(missing_ok=True)
    for name in FILES:
        os.replace(temporary / name, workdir / name)
    sync(workdir)


def sync(path):
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
