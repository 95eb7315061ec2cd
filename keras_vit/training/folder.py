"""The folder of a run: one process at a time; its files appear together, each of them whole."""

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
_TEMPORARY = ".tmp-"
_held = {}  # folder -> descriptor, of this process


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
        FileExistsError: if there is a model and it must not be replaced.
        BlockingIOError: if another process uses the folder.
        OSError: if the folder cannot be made, or is a file.
    """
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
        for unfinished in workdir.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        temporary.mkdir()
        yield temporary
        _publish(temporary, workdir)
        shutil.rmtree(workdir / STATE, ignore_errors=True)
        finished = True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not finished:
            _remove_empty([workdir / STATE])
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
