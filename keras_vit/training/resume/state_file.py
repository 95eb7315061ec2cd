"""The state of a training as a file that is whole or not there, with checksums.

The same on every backend.  A file is an `.npz` archive: an array for each variable, by its place,
and `state`, the JSON of everything that is no variable, the step among it.  It is written beside
its place, flushed to the disk and renamed, so that a process that dies leaves the files before;
zip's CRC-32 tells whether what is read is what was written.
"""

import dataclasses
import hashlib
import io
import json
import math
import pathlib
import re
import tokenize
import zipfile
import zlib

import keras
import numpy as np
from absl import logging

from keras_vit.checkpoints.containers.files import write_npz
from keras_vit.errors import CheckpointError
from keras_vit.files import sync
from keras_vit.training.run_folder import mark

FACTS = "state"
GROUPS = ("model", "optimizer", "metrics")
_NAME = re.compile(r"step_(\d{8,})\.npz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What a training needs to go on.

    Args:
        step: number of steps that were trained.
        facts: everything that is no variable, as JSON knows it.
        arrays: the variables' values, by place.
    """

    step: int
    facts: dict
    arrays: dict = dataclasses.field(repr=False)

    def is_finite(self):
        """Whether each number of each array is."""
        return all(_is_finite(array) for array in self.arrays.values())

    def num_bytes(self):
        """Of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def digest(self):
        """SHA-256 of all of it, in hexadecimal digits."""
        content = hashlib.sha256(json.dumps([self.step, self.facts]).encode())
        for key, array in sorted(self.arrays.items()):
            content.update(f"{key} {array.shape} {array.dtype.itemsize}".encode())
            content.update(array.tobytes())
        return content.hexdigest()


def _is_finite(array):
    if array.dtype.kind in "biu":
        return True
    array = array if array.dtype.kind == "f" else array.astype(np.float32)
    # A sum that is finite needs no second look; one of finite numbers may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


class StateFolder:
    """The newest states of a training.

    Args:
        folder: where they are; it is made and marked when the first is written.
        keep: how many are kept, at least 2.

    Raises:
        ValueError: for fewer than 2.
    """

    def __init__(self, folder, keep=2):
        if keep < 2:
            raise ValueError(
                f"`keep` must be at least 2, the last one may be bad. Received: {keep}"
            )
        self.folder = pathlib.Path(folder)
        self.keep = keep

    def paths(self):
        """Their files by step, the newest first."""
        if not self.folder.is_dir():
            return {}
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        by_step = {int(match[1]): path for match, path in found if match}
        return dict(sorted(by_step.items(), reverse=True))

    def newest(self):
        """The newest state that is whole, or None where there is none at all.

        Raises:
            CheckpointError: if there are some and all are damaged.
        """
        problems = []
        for path in self.paths().values():
            try:
                state = read_state(path)
            except CheckpointError as error:
                problems += error.problems
                logging.warning("%s; going back to the state before", error)
                continue
            return state
        if problems:
            raise CheckpointError(
                self.folder,
                f"no state of the training can be read ({'; '.join(problems)}); remove the folder "
                "to begin anew",
            )
        return None

    def write(self, state):
        """Writes a state and removes all but the newest.

        Returns:
            Its path.

        Raises:
            CheckpointError: if it cannot be written; those before are still there.
            ValueError: for numbers that are not finite.
        """
        if not state.is_finite():
            raise ValueError(
                f"a state's numbers must be finite. Received: others, step {state.step}"
            )
        path = self.folder / f"step_{state.step:08d}.npz"
        facts = json.dumps({"step": state.step, **state.facts}, allow_nan=False).encode()
        try:
            write_npz(path, {FACTS: np.frombuffer(facts, np.uint8), **state.arrays})
            mark(self.folder)
            sync(self.folder)
            self._remove_old(state.step)
        except (CheckpointError, OSError) as error:
            reason = error.problems[0] if isinstance(error, CheckpointError) else error.strerror
            raise CheckpointError(
                path, f"{reason} ({state.num_bytes() / 1e6:,.1f} MB are needed)"
            ) from error
        return path

    def _remove_old(self, step):
        """Leaves the `keep` newest up to `step`; a later one is what could not be read."""
        paths = self.paths()
        kept = [older for older in paths if older <= step][: self.keep]
        for other, path in paths.items():
            if other not in kept:
                path.unlink()

    def remove_unfinished(self):
        """Removes what a process that was killed had begun to write; nobody else may be writing."""
        for path in self.folder.glob(".step_*.npz.*"):
            path.unlink()


def read_state(path):
    """Reads a state, all of it or nothing.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            arrays = {name.removesuffix(".npy"): _read(archive, name) for name in names}
        facts = json.loads(arrays.pop(FACTS).tobytes())
        step, name = facts.pop("step", None), int(_NAME.fullmatch(path.name)[1])
    except (
        *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, SyntaxError),
        *(MemoryError, tokenize.TokenError),
    ) as error:
        raise CheckpointError(path, f"is damaged: {error or type(error).__name__}") from error
    if step is None:
        raise CheckpointError(
            path, "is of a version before 0.2, which cannot be resumed; finish it with that version"
        )
    if step != name:
        raise CheckpointError(path, f"is the state of step {step} under another name")
    return State(step=step, facts=facts, arrays=arrays)


def _read(archive, name):
    content = archive.read(name)  # the whole member, so that its checksum is compared
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"array {name!r} has a header of another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    size = len(content) - file.tell()
    if fortran_order or dtype.hasobject or size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"array {name!r} does not have the size of its shape {shape}")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def capture(model, groups=GROUPS):
    """Every variable's value, by group and place.

    The model's (the states of its random generators among them), the optimizer's and the metrics'.
    """
    return {
        key: keras.ops.convert_to_numpy(part)
        for key, _, part in _parts(model)
        if part is not None and key.split("/")[0] in groups
    }


def dtypes(model):
    """Every variable's dtype, by group and place."""
    return {key: variable.dtype for key, variable, _ in _parts(model)}


def restore(model, arrays, groups=GROUPS):
    """Assigns what `capture` returned, all of it or, on an error, nothing.

    Args:
        model: a compiled model whose variables are built.
        arrays: from `capture`, or a file.
        groups: what to assign; all is checked.

    Raises:
        ValueError: if the variables are others, or of other shapes or dtypes.
    """
    targets = {key: (variable, part) for key, variable, part in _parts(model)}
    if not any(key.startswith("metrics/") for key in arrays):  # of other devices
        targets = {key: part for key, part in targets.items() if not key.startswith("metrics/")}
    problems = [f"{targets[key][0].path} is missing" for key in targets if key not in arrays]
    problems += [f"there is no variable for {key}" for key in arrays if key not in targets]
    values = {}
    for key in targets.keys() & arrays.keys():
        variable, array = targets[key][0], arrays[key]
        dtype = np.dtype(keras.backend.standardize_dtype(variable.dtype))
        if array.dtype == np.dtype("V2") and dtype.itemsize == 2:
            array = array.view(dtype)
        if array.shape != tuple(variable.shape) or array.dtype != dtype:
            problems.append(
                f"{variable.path} is {variable.dtype}{tuple(variable.shape)}, and "
                f"{array.dtype}{array.shape} in the state"
            )
        values[key] = array
    if problems:
        raise ValueError(
            "a state must be that of the same model, optimizer and metrics. Received: another; "
            f"{'; '.join(sorted(problems)[:5])}"
        )
    for key, (variable, part) in targets.items():
        if key.split("/")[0] in groups:
            (variable if part is None else part).assign(values[key])


def _parts(model):
    """(key, variable, what to read and assign) of everything that changes in a training."""
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    for group, variables in groups.items():
        for place, variable in enumerate(variables):
            for replica, part in _replicas(variable):
                yield f"{group}/{place}{replica}", variable, part


def _replicas(variable):
    """The variable itself, or each replica's where they differ (`tf.distribute`'s metrics)."""
    value = variable.value
    parts = getattr(value, "values", None)
    if isinstance(parts, tuple) and "ON_READ" in str(getattr(value, "synchronization", "")):
        return [(f"/{replica}", part) for replica, part in enumerate(parts)]
    return [("", variable)]
