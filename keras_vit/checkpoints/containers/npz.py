"""The `.npz` container: what arrays a file holds, known before a byte of data is read.

The container is hostile until proven otherwise: no pickle, no member twice, and every size is
checked against the file before memory is taken.
"""

import dataclasses
import math
import pathlib
import re
import struct
import zlib

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.containers import zip_archive
from keras_vit.checkpoints.containers.arrays import (
    OTHER_ENDINGS,
    PYTORCH,
    aligned_bytes,
    as_float32,
    first_bytes,
    impostor,
    read_all,
)
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular
from keras_vit.untrusted import parse_int

NPZ = "(a zip archive of NumPy arrays)"
MAX_HEADER_BYTES = 65536
MAX_RANK = 16
# What NumPy writes as a header, and nothing else that Python could evaluate.
_ITEM = r"""
    'descr':\s*(?:'(?P<descr>[^'\\]{1,16})'|(?P<fields>\[.*\]))
    | 'fortran_order':\s*(?P<order>True|False)
    | 'shape':\s*\((?P<shape>[\d\sL,]*)\)
"""
ITEM = re.compile(rf"\s*(?:{_ITEM})\s*(?:,|$)", re.VERBOSE)
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
    # Counters of an optimizer beside the parameters: they may be there, and are never read.
    **{name: np.dtype(name) for name in ("|u1", "<i4", "<u4", "<i8", "<u8")},
}


@dataclasses.dataclass(frozen=True)
class ArrayHeader:
    """An array that has not been read: its shape, its dtype as stored, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    member: zip_archive.Member
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
        what = impostor(start, OTHER_ENDINGS.get(path.suffix, NPZ))
        raise CheckpointError(path, f"not a .npz file {what}")
    headers = {}
    members, problems = zip_archive.read_directory(path)
    if any(member.name.rpartition("/")[2] == "data.pkl" for member in members):
        raise CheckpointError(path, f"is {PYTORCH}")
    with open_regular(path, buffering=0) as file:
        for member in members:
            name = member.name.removesuffix(".npy")
            try:
                headers[name] = _read_header(file, member)
            except ValueError as error:
                problems.append(f"array {name!r} {error}")
            except (zlib.error, OSError) as error:
                problems.append(f"array {name!r} is damaged: {error}")
    if problems:
        raise CheckpointError(path, problems)
    if not headers:
        raise CheckpointError(path, "the file holds no arrays")
    return headers


def _read_header(file, member):
    """The header of one `.npy` member; ValueError says what is wrong with it."""
    if not member.name.endswith(".npy"):
        raise ValueError("is not a NumPy array (its name does not end with .npy)")
    start = zip_archive.start_of(file, member, 256)
    if len(start) < 12 or not start.startswith(b"\x93NUMPY"):
        raise ValueError("does not start as a NumPy array does")
    length_format, text_start = ("<H", 10) if start[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(length_format, start, 8)
    if length > MAX_HEADER_BYTES:
        raise ValueError("has a header that is too long")
    if text_start + length > len(start):
        start = zip_archive.start_of(file, member, text_start + length)
    header_bytes = text_start + length
    descriptor, fortran_order, shape = _parse_header(start[text_start:header_bytes])
    if descriptor not in DTYPES:
        raise ValueError(f"has dtype {descriptor!r}; only floating-point numbers are read")
    expected = header_bytes + math.prod(shape) * DTYPES[descriptor].itemsize
    if member.size != expected:
        raise ValueError(
            f"is cut off or damaged: {member.size} bytes where its shape {shape} needs {expected}"
        )
    return ArrayHeader(shape, DTYPES[descriptor], member, header_bytes, fortran_order)


def _parse_header(data):
    text = data.decode("latin1").strip()
    inner, items, position = text[1:-1].strip(), {}, 0
    while position < len(inner):
        match = ITEM.match(inner, position)
        if not match or match.lastgroup in items:
            break
        items[match.lastgroup] = match[match.lastgroup]
        position = match.end()
    if (text[:1], text[-1:]) != ("{", "}") or position < len(inner):
        raise ValueError("has a header that cannot be read")
    if "fields" in items:
        raise ValueError("has several numbers in each place, as plain arrays have not")
    if set(items) != {"descr", "order", "shape"}:
        raise ValueError("has a header of another kind than plain arrays have")
    if items["descr"] == "|O":
        raise ValueError("holds pickled objects, which could run code and are never loaded")
    # A `L` behind a number is what Python 2 wrote.
    if not re.fullmatch(r"(\d{1,18}L?\s*,\s*)*(\d{1,18}L?)?\s*", items["shape"]):
        raise ValueError(f"has the impossible shape ({items['shape'][:40]})")
    shape = tuple(parse_int(side) for side in re.findall(r"\d+", items["shape"]))
    if len(shape) > MAX_RANK:
        raise ValueError(f"has {len(shape)} axes")
    return items["descr"], items["order"] == "True", shape


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
            key: (header.member.name[:-4], lambda header=header: _read_array(path, header))
            for key, header in headers.items()
        },
    )


def _read_array(path, header):
    if header.dtype.kind in "iu":
        raise ValueError(f"has dtype {header.dtype.str!r}; only floating-point numbers are read")
    raw = aligned_bytes(header.member.size - header.header_bytes)
    with zip_archive.opened(path, header.member) as fill:
        fill(bytearray(header.header_bytes))
        fill(raw)
    return as_float32(raw, header.dtype, header.shape, header.fortran_order)
