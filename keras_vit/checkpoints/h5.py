"""The HDF5 container: the `.weights.h5` files of Keras models.

What a file holds is read with h5py, the numbers are not: only arrays that lie in one piece within
the file are taken, as Keras writes them, so that no size is believed that the file does not have.
Links out of the file, virtual, external, chunked and compressed arrays are refused.
"""

import dataclasses
import math
import pathlib

import h5py
import ml_dtypes
import numpy as np

from keras_vit.checkpoints.arrays import (
    as_float32,
    first_bytes,
    impostor,
    read_all,
    read_bytes_at,
)
from keras_vit.checkpoints.errors import CheckpointError

MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5 = "(an HDF5 file starts with another signature)"
MAX_ARRAYS = 100_000
MAX_DEPTH = 32
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# What h5py raises for damaged files, depending on the place of the damage.
DAMAGE = (
    OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError,
    MemoryError, NotImplementedError, SystemError, RecursionError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DatasetHeader:
    """An array that has not been read: its shape and dtype, and where its bytes are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: pathlib.Path
    start: int
    num_bytes: int


def read_headers(path):
    """What an HDF5 file holds, without reading its data.

    Args:
        path: a file.

    Returns:
        A dict: path of the array in the file -> `DatasetHeader`, in the order of the data.  Arrays
        of other numbers than floating-point ones are there as well; `read_arrays` refuses them.

    Raises:
        CheckpointError: if the file is missing, not HDF5, damaged, or holds links or arrays of
            another kind than Keras writes; names every such one.
    """
    path = pathlib.Path(path)
    start = first_bytes(path, ".h5")
    if not start.startswith(MAGIC):
        raise CheckpointError(path, f"not a .h5 file {impostor(start, HDF5)}")
    size = path.stat().st_size
    headers, problems = {}, []
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name, item in _walk(file, "", problems, depth=0):
                if len(headers) + len(problems) >= MAX_ARRAYS:
                    raise ValueError(f"it has more than {MAX_ARRAYS} arrays")
                try:
                    headers[name] = _header(name, item, path, size)
                except DAMAGE as error:
                    problems.append(f"array {name!r} {error}")
    except DAMAGE as error:
        raise CheckpointError(path, f"the HDF5 file is damaged or cut off: {error}") from error
    ordered = sorted(headers.values(), key=lambda header: (header.start, header.num_bytes))
    end = 0
    for header in ordered:
        if header.num_bytes and header.start < end:
            problems.append(f"array {header.name!r} shares its bytes with another")
        end = max(end, header.start + header.num_bytes)
    if problems:
        raise CheckpointError(path, problems)
    if not headers:
        raise CheckpointError(path, "the file holds no arrays")
    return {header.name: header for header in ordered}


def _walk(group, prefix, problems, depth):
    """(path, dataset) of every array below a group; what is no plain link becomes a problem."""
    if depth > MAX_DEPTH:
        raise ValueError(f"its groups are more than {MAX_DEPTH} deep")
    for name in group:
        path = f"{prefix}{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = type(link).__name__
            problems.append(f"{path!r} is a link to elsewhere ({kind}), which is not followed")
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{path}/", problems, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield path, item
        else:
            problems.append(f"{path!r} is a {type(item).__name__} and no array")


def _header(name, dataset, path, size):
    """The header of one array; ValueError says what is wrong with it."""
    creation = dataset.id.get_create_plist()
    if dataset.is_virtual or creation.get_external_count():
        raise ValueError("keeps its data in another file, which is not followed")
    if creation.get_nfilters() or creation.get_layout() != h5py.h5d.CONTIGUOUS:
        raise ValueError("is chunked or compressed, which Keras does not write")
    shape = dataset.shape
    if shape is None:
        raise ValueError("has no shape")
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None:
        dtype = BFLOAT16
    elif dtype.kind not in "fiub" or dtype.itemsize > 8 or dtype.subdtype is not None:
        raise ValueError(f"has dtype {str(dtype)!r}; only numbers are read")
    num_bytes = math.prod(shape) * dtype.itemsize
    stored, start = dataset.id.get_storage_size(), dataset.id.get_offset()
    if num_bytes == 0:
        return DatasetHeader(name, shape, dtype, path, 0, 0)
    if stored != num_bytes or start is None:
        raise ValueError(f"has {stored} bytes where its shape {shape} needs {num_bytes}")
    if start + num_bytes > size:
        raise ValueError("is cut off")
    return DatasetHeader(name, shape, dtype, path, start, num_bytes)


def read_arrays(path, headers):
    """Reads arrays as float32, as `readers.read_arrays` does.

    Args:
        path: for error messages.
        headers: a dict: any key -> `DatasetHeader`.

    Returns:
        A dict with the same keys.

    Raises:
        CheckpointError: if the data is cut off, not of floating-point numbers, or not finite; names
            every such array.
    """
    return read_all(
        path,
        {
            key: (header.name, lambda header=header: _read_array(header))
            for key, header in headers.items()
        },
    )


def _read_array(header):
    if header.dtype != BFLOAT16 and header.dtype.kind != "f":
        raise ValueError(f"has dtype {str(header.dtype)!r}; only floating-point numbers are read")
    raw = read_bytes_at(header.path, header.start, header.num_bytes)
    return as_float32(raw, header.dtype, header.shape)


def write(file, arrays):
    """Writes arrays as Keras does: one dataset each, in the groups that their keys name.

    Args:
        file: binary file, open for reading and writing.
        arrays: key -> float32, float16 or bfloat16 array.
    """
    # Without times: the same arrays give the same bytes at any time.
    with h5py.File(file, "w", track_order=False) as target:
        for key, array in arrays.items():
            dataset = target.create_dataset(key, data=array, track_times=False)
            if array.dtype == BFLOAT16:
                dataset.attrs["dtype"] = "bfloat16"
