"""The `.npz` container: what arrays a file holds, known before a byte of data is read.

The container is hostile until proven otherwise: no pickle, no duplicate members, and every size is
checked against the file before memory is taken.
"""

import ast
import dataclasses
import math
import pathlib
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.arrays import aligned_bytes, as_float32, first_bytes, impostor, read_all
from keras_vit.checkpoints.errors import CheckpointError

NPZ = "(a zip archive of NumPy arrays)"
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
    start = first_bytes(path, ".npz")
    if not start.startswith(b"PK"):
        raise CheckpointError(path, f"not a .npz file {impostor(start, NPZ)}")
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
    return read_all(
        path,
        {
            key: (header.member.filename[:-4], lambda header=header: _read_array(path, header))
            for key, header in headers.items()
        },
    )


def _read_array(path, header):
    raw = aligned_bytes(header.member.file_size - header.header_bytes)
    if header.member.compress_type == zipfile.ZIP_STORED:
        _read_stored(path, header, raw)
    else:
        _read_deflated(path, header, raw)
    return as_float32(raw, header.dtype, header.shape, header.fortran_order)


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
