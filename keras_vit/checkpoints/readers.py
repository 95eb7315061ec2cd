"""Containers: what arrays a file holds, known from its headers before a byte of data is read.

The container is hostile until proven otherwise: no pickle, no duplicate members, and every size is
checked against the file before memory is taken.
"""

import ast
import concurrent.futures
import dataclasses
import math
import os
import pathlib
import re
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.errors import CheckpointError

MAX_HEADER_BYTES = 65536
MAX_MEMBERS = 100_000
# bfloat16 has no NumPy descriptor: it is written as two bytes without a type.
DTYPES = {
    "<f2": np.dtype("<f2"),
    "<f4": np.dtype("<f4"),
    "<f8": np.dtype("<f8"),
    ">f2": np.dtype(">f2"),
    ">f4": np.dtype(">f4"),
    ">f8": np.dtype(">f8"),
    "|V2": np.dtype(ml_dtypes.bfloat16),
    "<V2": np.dtype(ml_dtypes.bfloat16),
}
# First bytes of what people mistake for a checkpoint -> what it is and what to do.
IMPOSTORS = (
    (b"version https://git-lfs", "a git-lfs pointer and not the file it stands for; fetch that"),
    (b"<", "a web page (HTML or XML) and not an array file; download the file itself"),
    (b"\x80\x02", "a pickle, which could run code and is never loaded"),
    (b"\x80\x03", "a pickle, which could run code and is never loaded"),
    (b"\x80\x04", "a pickle, which could run code and is never loaded"),
    (b"\x80\x05", "a pickle, which could run code and is never loaded"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; load it with the Keras model that wrote it"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
)


@dataclasses.dataclass(frozen=True)
class ArrayHeader:
    """An array that has not been read: its shape, its dtype as stored, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    member: zipfile.ZipInfo
    header_bytes: int
    fortran_order: bool


def read_headers(path):
    """What a `.npz` file holds, without reading its data.

    Args:
        path: a file.

    Returns:
        A dict: array name -> `ArrayHeader`, in the file's order.

    Raises:
        CheckpointError: if the file is missing, not a zip of NumPy arrays, truncated, or holds
            something else than plain floating-point arrays; names every such member.
    """
    path = pathlib.Path(path)
    _check_is_zip(path)
    headers, problems = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                problems.append(f"the archive has {len(members)} members")
                members = []
            for member in members:
                name = member.filename.removesuffix(".npy")
                try:
                    if name in headers:
                        raise ValueError("is in the file twice")
                    headers[name] = _read_header(archive, member)
                except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
                    problems.append(f"array {name!r} {error}")
                except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
                    problems.append(f"array {name!r} is damaged: {error}")
    except zipfile.BadZipFile as error:
        raise CheckpointError(path, f"the zip archive is damaged or cut off: {error}") from error
    except (OSError, ValueError, NotImplementedError, struct.error, UnicodeError) as error:
        raise CheckpointError(path, f"the zip archive cannot be read: {error}") from error
    if problems:
        raise CheckpointError(path, problems)
    if not headers:
        raise CheckpointError(path, "the file holds no arrays")
    return headers


def _check_is_zip(path):
    if not path.exists():
        raise CheckpointError(path, "there is no such file")
    if not path.is_file():
        raise CheckpointError(path, "not a regular file; give the path of a .npz file")
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(path, "the file is empty")
    if not start.startswith(b"PK"):
        for magic, what in IMPOSTORS:
            if start.lstrip().startswith(magic):
                raise CheckpointError(path, f"not a .npz file but {what}")
        raise CheckpointError(path, "not a .npz file (a zip archive of NumPy arrays)")


def _read_header(archive, member):
    """The header of one `.npy` member; ValueError says what is wrong with it."""
    if not member.filename.endswith(".npy"):
        raise ValueError("is not a NumPy array (its name does not end with .npy)")
    if member.flag_bits & 0x1:
        raise ValueError("is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("uses a compression other than deflate")
    with archive.open(member) as file:
        magic = file.read(8)
        if len(magic) < 8 or not magic.startswith(b"\x93NUMPY"):
            raise ValueError("does not start as a NumPy array does")
        length_format, length_size = ("<H", 2) if magic[6] == 1 else ("<I", 4)
        (length,) = struct.unpack(length_format, file.read(length_size))
        if length > MAX_HEADER_BYTES:
            raise ValueError("has a header that is too long")
        text = file.read(length).decode("latin1")
    descriptor, fortran_order, shape = _parse_header(text)
    if descriptor not in DTYPES:
        raise ValueError(f"has dtype {descriptor!r}; only floating-point numbers are read")
    header_bytes = 8 + length_size + length
    expected = header_bytes + math.prod(shape) * DTYPES[descriptor].itemsize
    if member.file_size != expected:
        raise ValueError(
            f"is cut off or damaged: {member.file_size} bytes where its shape {shape} "
            f"needs {expected}"
        )
    return ArrayHeader(shape, DTYPES[descriptor], member, header_bytes, fortran_order)


def _parse_header(text):
    try:
        header = ast.literal_eval(text.strip())
        descriptor, fortran_order, shape = (
            header[key] for key in ("descr", "fortran_order", "shape")
        )
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("has a header that cannot be read") from error
    if descriptor == "|O":
        raise ValueError("holds pickled objects, which could run code and are never loaded")
    plain = isinstance(descriptor, str) and isinstance(fortran_order, bool)
    if not plain or not isinstance(shape, tuple):
        raise ValueError("has a header of another kind than plain arrays have")
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError(f"has the impossible shape {shape}")
    return descriptor, fortran_order, shape


def read_arrays(path, headers):
    """Reads arrays into memory that TensorFlow can take over without a copy.

    Args:
        path: the file that `headers` come from.
        headers: a dict: any key -> `ArrayHeader`.

    Returns:
        A dict with the same keys: float32 arrays in C order (float16 and bfloat16 are widened,
        float64 is rounded).

    Raises:
        CheckpointError: if the data is damaged, or a value is not finite; names every such array.
    """
    problems = []
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        futures = {key: pool.submit(_read_array, path, h) for key, h in headers.items()}
        arrays = {}
        for key, future in futures.items():
            try:
                arrays[key] = future.result()
            except ValueError as error:
                problems.append(f"array {headers[key].member.filename[:-4]!r} {error}")
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error) as error:
                problems.append(f"array {headers[key].member.filename[:-4]!r} is damaged: {error}")
    if problems:
        raise CheckpointError(path, problems)
    return arrays


def _read_array(path, header):
    raw = _aligned_bytes(header.member.file_size - header.header_bytes)
    if header.member.compress_type == zipfile.ZIP_STORED:
        _read_stored(path, header, raw)
    else:
        _read_deflated(path, header, raw)
    array = raw.view(header.dtype)
    if array.dtype != np.float32 or header.fortran_order:
        order = "F" if header.fortran_order else "C"
        values = array.reshape(header.shape, order=order).astype("<f4")
        array = _aligned_bytes(values.size * 4).view("<f4")
        array[:] = values.ravel(order="C")
    # Not finite sums are rare enough to look at each value then; a sum of finite ones may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        raise ValueError("holds values that are not finite (NaN or infinity)")
    return array.reshape(header.shape)


def _aligned_bytes(size, alignment=64):
    """Uninitialised bytes at an address that TensorFlow accepts as a tensor's."""
    buffer = np.empty(size + alignment, np.uint8)
    offset = -buffer.ctypes.data % alignment
    return buffer[offset : offset + size]


def _read_stored(path, header, raw):
    """Straight from the file into the array, with the zip archive's checksum."""
    member = header.member
    with open(path, "rb", buffering=0) as file:
        file.seek(member.header_offset)
        local = file.read(30)
        if len(local) < 30 or not local.startswith(b"PK\x03\x04"):
            raise ValueError("is damaged: no member starts where the archive says")
        name_length, extra_length = struct.unpack("<HH", local[26:30])
        file.seek(member.header_offset + 30 + name_length + extra_length)
        prefix = file.read(header.header_bytes)
        view, done = memoryview(raw), 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError("is cut off")
            done += count
    if zlib.crc32(raw, zlib.crc32(prefix)) != member.CRC:
        raise ValueError("is damaged: its checksum is wrong")


def _read_deflated(path, header, raw):
    with zipfile.ZipFile(path) as archive, archive.open(header.member) as file:
        file.read(header.header_bytes)
        view, done = memoryview(raw), 0
        while done < len(view):
            chunk = file.read(min(len(view) - done, 1 << 20))
            if not chunk:
                raise ValueError("is cut off")
            view[done : done + len(chunk)] = chunk
            done += len(chunk)
        if file.read(1):
            raise ValueError("is longer than its shape says")


def natural_key(name):
    """Sorts block 10 after block 9.

    >>> sorted(["b10", "b9", "a"], key=natural_key)
    ['a', 'b9', 'b10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
