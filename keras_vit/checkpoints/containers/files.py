"""Files as tables of arrays, whatever their container, and the way back to disk."""

import contextlib
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from keras_vit import files as ground_files
from keras_vit.checkpoints.containers import hdf5, npz, safetensors
from keras_vit.checkpoints.containers.arrays import (
    PYTORCH,
    PYTORCH_ENDINGS,
    SAVED_MODEL,
    first_bytes,
    read_stored,
)
from keras_vit.errors import CheckpointError

INDEX_ENDING = ".safetensors.index.json"
# What a folder is read as, in this order.
FOLDER_FILES = (
    "model.keras",
    "model.safetensors",
    f"model{INDEX_ENDING}",
    "model.weights.h5",
)
# KerasHub's presets have the backbone in one file and the head in another.  The keys of the second
# are told from those of the first by its name.
BACKBONE_FILE = "model.weights.h5"
TASK_FILE = "task.weights.h5"
PYTORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth")
# Beside `config.json`, what the libraries write about pixels and heads.
SIDE_FILES = ("preprocessor_config.json", "task.json", "image_converter.json")
MAX_JSON_BYTES = 4 << 20
HALVES = {"float16": np.dtype("<f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Container:
    """A file of arrays of which nothing but the headers has been read.

    Attributes:
        headers: key -> what has a `shape` and a `dtype`.
        read: function of a list of keys that gives key -> float32 array.
        facts: function that gives what the `config.json` beside the file says, and what other JSON
            files there say under their names; {} without any.
    """

    headers: Mapping
    read: Callable
    facts: Callable

    @property
    def shapes(self):
        """Key -> shape."""
        return {key: header.shape for key, header in self.headers.items()}

    @property
    def half(self):
        """Name of the 16-bit type that all arrays have, or None."""
        dtypes = {h.dtype for h in self.headers.values() if h.dtype.kind not in "iu"}
        return next((name for name, dtype in HALVES.items() if dtypes == {dtype}), None)


def file_of(path):
    """The file that a path stands for: itself, or what a folder holds."""
    if not path.is_dir():
        return path
    found = [path / name for name in FOLDER_FILES if os.path.lexists(path / name)]
    pickles = [name for name in PYTORCH_FILES if (path / name).exists()]
    if pickles and not found:
        raise CheckpointError(path / pickles[0], f"is {PYTORCH}")
    if not found and any(any(path.glob(f"{version}saved_model.pb")) for version in ("", "[0-9]*/")):
        raise CheckpointError(path, SAVED_MODEL)
    if not found:
        raise CheckpointError(path, f"there is none of {', '.join(FOLDER_FILES)} in the folder")
    return found[0]


def open_container(path):
    """The arrays of a `.npz`, `.safetensors` or `.h5` file, or of several that belong together.

    Raises:
        CheckpointError: if any of the files cannot be read; lists all that is wrong with it.
    """
    if path.name.endswith(INDEX_ENDING):
        headers, read_arrays = _sharded_headers(path), read_stored
    elif path.suffix == ".safetensors":
        headers, read_arrays = safetensors.read_headers(path), read_stored
    elif path.suffix == ".h5":
        headers, read_arrays = _h5_headers(path), read_stored
    elif path.suffix in PYTORCH_ENDINGS and _is_pickle(path):
        raise CheckpointError(path, f"is {PYTORCH}")
    else:
        headers, read_arrays = npz.read_headers(path), npz.read_arrays
    return Container(
        headers=headers,
        read=lambda keys: read_arrays(path, {key: headers[key] for key in keys}),
        facts=lambda: _facts_beside(path),
    )


def _is_pickle(path):
    return first_bytes(path, ".npz").startswith(b"\x80")


def shards_of(path):
    """The names of the files that an index says the arrays are in, sorted.

    Raises:
        CheckpointError: if a name is not that of a file beside it.
    """
    return sorted(set(_weight_map(path).values()))


def _weight_map(path):
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(path, "has no `weight_map` of array names to file names")
    for name in shards.values():
        # Names from a file are never followed out of its folder.
        if name != pathlib.PurePath(name).name or not name.endswith(".safetensors"):
            raise CheckpointError(path, f"names {name!r}, which is no file beside it")
    return shards


def _sharded_headers(path):
    shards, headers, problems = _weight_map(path), {}, []
    for name in sorted(set(shards.values())):
        for key, header in safetensors.read_headers(path.parent / name).items():
            if shards.get(key) != name:
                problems.append(f"+ {key} is in {name}, which the index does not say")
            headers[key] = header
    problems += [f"- {key} is missing in {shards[key]}" for key in shards if key not in headers]
    if problems:
        raise CheckpointError(path, problems)
    return headers


def _h5_headers(path):
    headers, task = hdf5.read_headers(path), path.with_name(TASK_FILE)
    if path.name == BACKBONE_FILE and os.path.lexists(task):
        headers |= {f"{TASK_FILE}/{key}": header for key, header in hdf5.read_headers(task).items()}
    return headers


def _facts_beside(path):
    config = path.parent / "config.json"
    facts = read_json(config) if os.path.lexists(config) else {}
    for name in SIDE_FILES:
        # What is there and cannot be read is an error: without it the numbers would be others.
        if os.path.lexists(path.parent / name):
            facts[name] = read_json(path.parent / name)
    return facts


def read_json(path):
    """A JSON object of a file beside the arrays; CheckpointError where it cannot be read."""
    try:
        text = ground_files.read_regular(path, MAX_JSON_BYTES)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    return safetensors.parse_json(path, text, "the file")


def in_dtype(path, arrays, dtype=None, came_in=None):
    """float32 arrays in the type that they are to be written in.

    Args:
        path: for error messages.
        arrays: key -> float32 array.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, to which they are rounded; None for
            `came_in` if that loses nothing.
        came_in: the 16-bit type that their file had, or None.

    Raises:
        CheckpointError: if a value is too large for `dtype`; names every such array.
        ValueError: for an unknown type.
    """
    if dtype is None:
        return narrowed(arrays, came_in)
    if dtype == "float32":
        return arrays
    if dtype not in HALVES:
        names = ", ".join(("float32", *HALVES))
        raise ValueError(f"`dtype` must be one of {names}. Received: {dtype!r}")
    with np.errstate(over="ignore"):
        rounded = {key: array.astype(HALVES[dtype]) for key, array in arrays.items()}
    problems = [
        f"array {key!r} has values that {dtype} cannot hold"
        for key, array in rounded.items()
        if not np.isfinite(array.astype(np.float32)).all()
    ]
    if problems:
        raise CheckpointError(path, problems)
    return rounded


def narrowed(arrays, half):
    """float32 arrays in the 16-bit type that their file had, if that loses nothing.

    Args:
        arrays: key -> float32 array.
        half: `"float16"`, `"bfloat16"` or None.

    Returns:
        The arrays in that type, or as they are where a value would change.
    """
    if half is None:
        return arrays
    changed = {}
    for key, array in arrays.items():
        with np.errstate(over="ignore"):
            changed[key] = array.astype(HALVES[half])
        if not np.array_equal(changed[key].astype(np.float32), array):
            return arrays
    return changed


def write(path, arrays, side_files=None):
    """Writes a file of arrays, and the JSON files that belong beside it.

    Args:
        path: a file whose name ends with that of a container; replaced if it exists.
        arrays: key -> array.
        side_files: name of a JSON file in the same folder -> its content.

    Raises:
        CheckpointError: if the ending is another, the folder cannot be written, or the disk is
            full.
    """
    if path.suffix not in WRITERS:
        *most, last = WRITERS
        raise CheckpointError(path, f"the name must end with {', '.join(most)} or {last}")
    WRITERS[path.suffix](path, arrays)
    for name, content in (side_files or {}).items():
        with replacing(path.parent / name) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")


def write_npz(path, arrays):
    """Writes arrays beside `path` and renames the file when it is whole.

    Args:
        path: a file; replaced if it exists.
        arrays: key -> array; bfloat16 becomes the two bytes without a type that NumPy has for it.

    Raises:
        CheckpointError: if the folder cannot be written, or the disk is full.
    """
    bfloat16 = HALVES["bfloat16"]
    plain = {k: a.view("V2") if a.dtype == bfloat16 else a for k, a in arrays.items()}
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in plain.items():
            # A `ZipInfo` without a date: the same arrays give the same bytes at any time.
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_safetensors(path, arrays):
    """The same as a `.safetensors` file."""
    with replacing(path) as file:
        safetensors.write(file, arrays)


def write_h5(path, arrays):
    """The same as an `.h5` file; what belongs into `TASK_FILE` goes into that beside it."""
    prefix = f"{TASK_FILE}/"
    task = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
    if path.name == BACKBONE_FILE and not task and path.with_name(TASK_FILE).exists():
        raise CheckpointError(
            path, f"has no head, and the {TASK_FILE} beside it would be taken for its; remove that"
        )
    for target, part in ((path.with_name(TASK_FILE), task), (path, arrays)):
        if part:
            with replacing(target) as file:
                hdf5.write(file, {k: a for k, a in part.items() if not k.startswith(prefix)})


WRITERS = {".npz": write_npz, ".safetensors": write_safetensors, ".h5": write_h5}


@contextlib.contextmanager
def replacing(path):
    """`keras_vit.files.replacing`, whose errors are a CheckpointError about `path`."""
    try:
        with ground_files.replacing(path) as file:
            yield file
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {error.strerror}") from error
