"""Which state a training goes on from: a state of the same training, the same in all workers."""

import errno
import os

from keras_vit.errors import CheckpointError
from keras_vit.training import run_folder as folders
from keras_vit.training.resume.state_file import read_state


def choose_state(states, config, workers, overwrite, options=None):
    """Takes the folder for this training, and finds the state that it goes on from.

    The chief chooses the newest that is whole, and the other workers read the same.

    Args:
        states: `StateFolder`; its folder is made if needed, and held by the chief.
        config: what the training is, as JSON knows it.
        workers: the `Workers` that train it.
        overwrite: whether states of another training are removed.
        options: what else must be the same in all workers, though not in the next process.

    Returns:
        A `State`, or None to begin anew.

    Raises:
        FileExistsError: for a state of a training with another `config`, or files with the names
            of states in a folder that this package has not marked.
        BlockingIOError: if another process uses the folder.
        PermissionError: if the folder cannot be written.
        CheckpointError: if there are states and none can be read, or a worker does not see what the
            chief sees.
        TrainingError: if any of these happens to another worker.
        ValueError: for a `config` or `options` other than the chief's.
    """
    state, chosen = None, None
    with workers.together():
        if workers.is_chief:
            states.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(states.folder, os.W_OK | os.X_OK):
                problem = "states cannot be written there"
                raise PermissionError(errno.EACCES, problem, str(states.folder))
            folders.hold(states.folder)
            folders.check_marked(states.folder, [path.name for path in states.paths().values()])
            folders.mark(states.folder)
            states.remove_unfinished()
            state = _compatible(states, config, overwrite)
    if workers.number == 1:
        return state
    if workers.is_chief:
        chosen = {"config": config, "options": options, "name": None}
        if state is not None:
            chosen |= {"name": states.paths()[state.step].name, "digest": state.digest()}
    chosen = workers.gather(chosen)[0]
    with workers.together():
        different = differences(chosen["config"], config)
        different += differences(chosen["options"], options)
        if different:
            raise ValueError(
                "all workers must be given the same training. Received: in worker "
                f"{workers.index}, after the chief's, {'; '.join(different[:5])}"
            )
        if chosen["name"] is not None and not workers.is_chief:
            state = _read_same(states.folder / chosen["name"], chosen["digest"], workers)
    return state


def _compatible(states, config, overwrite):
    state = states.newest()
    if state is None:
        return None
    different = differences(state.facts["config"], config)
    if not different:
        return state
    if not overwrite:
        raise FileExistsError(
            f"{states.folder} holds the state of another training, at step {state.step}: "
            f"{'; '.join(different[:5])}. Give the same values to go on, or choose another folder, "
            "or pass `overwrite=True` to begin anew (on the command line --overwrite)"
        )
    for path in states.paths().values():
        path.unlink()
    return None


def _read_same(path, digest, workers):
    """The chief's state, as this worker sees it."""
    state, problem = None, "is not there"
    if path.exists():
        state, problem = read_state(path), "is another file"
    if state is None or state.digest() != digest:
        raise CheckpointError(
            path,
            f"{problem} in worker {workers.index} of {workers.number}, and the chief goes on from "
            "it; all workers must share the folder of the run under the same path, or have copies "
            f"of its {path.parent.name}/",
        )
    return state


def differences(before, now, name=""):
    """Sentences on what two values that JSON can hold differ in; a list."""
    if isinstance(before, dict) and isinstance(now, dict):
        fields = dict.fromkeys([*before, *now])
        nested = (
            differences(before.get(field), now.get(field), f"{name}.{field}".lstrip("."))
            for field in fields
        )
        return [sentence for sentences in nested for sentence in sentences]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        nested = (
            differences(old, new, f"{name}[{i}]")
            for i, (old, new) in enumerate(zip(before, now, strict=True))
        )
        return [sentence for sentences in nested for sentence in sentences]
    if before == now:
        return []
    return [f"`{name or 'config'}` was {_short(before)} and is {_short(now)}"]


def _short(value):
    text = f"{len(value)} values" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
