"""The folder of a run: its files appear together, each of them whole."""

import contextlib
import errno
import os
import pathlib
import shutil
import uuid

# In the order in which they appear: a folder that has the model has everything.
FILES = ("recipe.json", "history.csv", "metrics.json", "checkpoint.npz", "model.keras")
MODEL = FILES[-1]


@contextlib.contextmanager
def new_run(workdir, overwrite=False):
    """A temporary folder inside `workdir` whose files are moved there if the block succeeds.

    It is made at once, so that a folder that cannot be written is found before the work; if the
    block fails, what was in `workdir` before is still there and nothing else.

    Args:
        workdir: folder of the run; it is made if needed.
        overwrite: whether a model that is there may be replaced.

    Yields:
        `pathlib.Path` of the temporary folder, into which the block writes all of `FILES`.

    Raises:
        FileExistsError: if there is a model and it must not be replaced.
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
    temporary = workdir / f".tmp-{uuid.uuid4().hex}"
    finished = False
    try:
        _make(temporary, workdir)
        yield temporary
        _publish(temporary, workdir)
        finished = True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not finished:
            with contextlib.suppress(OSError):
                for folder in missing:
                    folder.rmdir()


def _make(temporary, workdir):
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        # Named by the folder that the user knows.
        raise OSError(error.errno, error.strerror, str(workdir)) from error


def _publish(temporary, workdir):
    for name in FILES:
        _sync(temporary / name)
    # An older model goes first, so that it is never seen beside the files of the newer run.
    (workdir / MODEL).unlink(missing_ok=True)
    for name in FILES:
        os.replace(temporary / name, workdir / name)
    _sync(workdir)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
