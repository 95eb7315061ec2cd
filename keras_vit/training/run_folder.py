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

from absl import logging

from keras_vit.files import check_not_empty_path, sync

# In the order in which they appear: a folder that has the model has everything.
FILES = ("recipe.json", "history.csv", "metrics.json", "checkpoint.npz", "model.keras")
# Of models that no format of other libraries holds there is no checkpoint.
CHECKPOINT, MODEL = FILES[-2:]
# Beside them after a fine-tuning with LoRA.
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Entries of metrics.json that describe the run; its other dicts are measurements.
DESCRIPTIONS = ("data", "recipe")
# While it is trained: the states that it can go on from.
STATE = "state"
# What a run or a sweep may write beside these.
SKIPPED, SWEEP_TABLE, SWEEP_CANDIDATES = "skipped.jsonl", "sweep.json", "sweep"
# Which picture is in which split, where we made it; and the page about the run.
SPLIT, REPORT = "split.csv", "report.html"
OUTPUTS = (*FILES, *ADAPTER, STATE, SKIPPED, SWEEP_TABLE, SWEEP_CANDIDATES, SPLIT, REPORT)
MARKER = ".keras_vit_run"
_MARKER_TEXT = "This folder was written by keras_vit, which may replace the files of a run in it.\n"
_TEMPORARY = ".tmp-"
_LOCK = ".keras_vit_lock"
_held = {}  # folder -> descriptor, of this process


def check_workdir(path):
    """Raises unless a path names a folder that this package may write a run into.

    Args:
        path: Path of the folder; it may be missing.

    Raises:
        ValueError: for an empty path, which is what an unset shell variable gives.
        FileExistsError: for a folder with one of `OUTPUTS` that is not marked as a run's.
    """
    check_not_empty_path(path, "a run's folder")
    path = pathlib.Path(path)
    check_marked(path, [name for name in OUTPUTS if os.path.lexists(path / name)])


def check_marked(path, names):
    """Raises FileExistsError if a folder holds any of `names` and no marker."""
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


def present(path):
    """The names of `FILES` that a folder has."""
    return [name for name in FILES if (pathlib.Path(path) / name).is_file()]


def remove_states(path):
    """Removes the states in a marked folder, and the folder if nothing else is in it."""
    path = pathlib.Path(path)
    if not (path / MARKER).is_file() or path.is_symlink():
        return
    for pattern in ("step_*.npz", ".step_*.npz.*"):
        for state in path.glob(pattern):
            with contextlib.suppress(OSError):
                state.unlink()
    _remove_if_only_marked(path)


def _remove_if_only_marked(path):
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.iterdir()] == [MARKER]:
            (path / MARKER).unlink()
        path.rmdir()


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
        `pathlib.Path` of the temporary folder, into which the block writes `FILES`.

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
        remove_states(workdir / STATE)
        finished = True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not finished:
            _remove_if_only_marked(workdir / STATE)
            if not any(os.path.lexists(workdir / name) for name in OUTPUTS):
                (workdir / MARKER).unlink(missing_ok=True)
            _remove_empty(missing)
        release(workdir / STATE)
        release(workdir)


@contextlib.contextmanager
def new_shared_run(placement, workdir, overwrite=False):
    """`new_run` in the chief, the only process that writes; None in the other workers.

    Args:
        placement: `Placement` whose workers train together.
        workdir: Folder of the run.
        overwrite: Whether a model that is there may be replaced.

    Raises:
        TrainingError: in the other workers, if the chief cannot begin.
    """
    workers = placement.workers
    with contextlib.ExitStack() as stack:
        temporary = None
        with workers.together():
            if workers.is_chief:
                temporary = stack.enter_context(new_run(workdir, overwrite))
        name = workers.gather(temporary and temporary.name)[0]
        if not (pathlib.Path(workdir) / name).exists():
            logging.warning(
                "worker %d does not see the chief's folder %s: the run cannot be resumed "
                "unless all workers share it, under the same path",
                workers.index,
                workdir,
            )
        yield temporary
        _publish_together(placement, stack)


def _publish_together(placement, stack):
    """Has the chief put the files in their places; no worker is done before they are there."""
    is_published = False
    try:
        with placement.workers.together():
            stack.close()
            is_published = placement.workers.is_chief
    except Exception as error:
        if not is_published or placement.find_lost(error) is None:
            raise
        logging.warning("another worker was lost, but everything is written: %s", error)


def hold(folder):
    """Keeps other processes out of a folder until `release`, or until this one ends.

    Raises:
        BlockingIOError: if another one has it.
    """
    import filelock

    folder = os.path.realpath(folder)
    if folder in _held:
        return
    descriptor = _lockable(folder)
    try:
        is_ours = filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        os.close(descriptor)
        logging.warning("%s cannot be locked: %s", folder, error.strerror)
        return
    if not is_ours:
        os.close(descriptor)
        raise BlockingIOError(errno.EWOULDBLOCK, "another process is training in it", folder)
    _held[folder] = descriptor


def _lockable(folder):
    """A descriptor to lock: the folder's, or of a file in it where folders cannot be opened."""
    if os.name == "nt":
        return os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT)
    return os.open(folder, os.O_RDONLY)


def release(folder):
    """Undoes `hold`, if this process has the folder."""
    descriptor = _held.pop(os.path.realpath(folder), None)
    if descriptor is not None:
        os.close(descriptor)
    if os.name == "nt":
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, _LOCK))


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
    optional = (*ADAPTER, CHECKPOINT)
    names = [
        name for name in (*ADAPTER, *FILES) if name not in optional or (temporary / name).exists()
    ]
    for name in names:
        sync(temporary / name)
    mark(workdir)  # again, if somebody has deleted the folder meanwhile
    # An older model goes first, so that it is never seen beside the files of the newer run.
    for name in (MODEL, REPORT):
        (workdir / name).unlink(missing_ok=True)
    for name in names:
        os.replace(temporary / name, workdir / name)
    for name in optional:
        if name not in names:
            (workdir / name).unlink(missing_ok=True)
    sync(workdir)
