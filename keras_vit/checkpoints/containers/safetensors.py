"""The safetensors container: a JSON header that covers the file without gaps, then the data.

Read here and not with the package of that name, which knows no bfloat16 in NumPy and whose errors
are of many kinds.  The data has no checksum, as the format has none.
"""

import json
import math
import pathlib
import struct

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.containers.arrays import StoredArray, first_bytes, impostor
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular
from keras_vit.untrusted import is_text, quoted

# Twenty times what the largest model needs; the format allows 100 MB, which JSON would blow up.
MAX_HEADER_BYTES = 2 << 20
MAX_RANK = 16
DTYPES = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
# May be beside the weights (CLIP's position_ids), and are not read.
INTEGERS = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4")}
SAFETENSORS = "(its first eight bytes are no length of a header that follows)"


def read_headers(path):
    """What a `.safetensors` file holds, without reading its data.

    Args:
        path: a file.

    Returns:
        A dict: array name -> `StoredArray`, in the order of the data.

    Raises:
        CheckpointError: if the file is missing, not of this format, truncated, or holds something
            else than floating-point arrays; names every such array.
    """
    path = pathlib.Path(path)
    start = first_bytes(path, ".safetensors")
    size = path.stat().st_size
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else size
    if length > size - 8 or start[8:9] != b"{":
        raise CheckpointError(path, f"not a .safetensors file {impostor(start, SAFETENSORS)}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(path, f"has a header of {length} bytes, more than any model needs")
    with open_regular(path) as file:
        file.seek(8)
        text = file.read(length)
    table = parse_json(path, text, "its header")
    table.pop("__metadata__", None)
    headers, problems = {}, []
    for name, facts in table.items():
        try:
            headers[name] = _header(name, facts, path, 8 + length)
        except ValueError as error:
            problems.append(f"array {name!r} {error}")
    if problems:
        raise CheckpointError(path, problems)
    if not headers:
        raise CheckpointError(path, "the file holds no arrays")
    position = 8 + length
    ordered = sorted(headers.values(), key=lambda header: (header.start, header.num_bytes))
    for header in ordered:
        if header.start != position:
            raise CheckpointError(
                path, f"is damaged: array {header.name!r} does not start where the one before ends"
            )
        position += header.num_bytes
    if position != size:
        raise CheckpointError(path, f"is cut off or damaged: {size} bytes, expected {position}")
    return {header.name: header for header in ordered}


def parse_json(path, text, what):
    """A JSON object without doubled names, NaN, and text that is no Unicode.

    Args:
        path: for error messages.
        text: UTF-8 bytes.
        what: what it is, for error messages.

    Raises:
        CheckpointError: if the text is anything else.
    """

    def without_doubles(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name is there twice")
        return table

    def refuse(constant):
        raise ValueError(f"{constant} is no number of JSON")

    try:
        text = bytes(text).decode("utf-8-sig")
        table = json.loads(text, object_pairs_hook=without_doubles, parse_constant=refuse)
        # Only an escape can make half of a pair of surrogates.
        if "\\ud" in text.lower() and not is_text(json.dumps(table, ensure_ascii=False)):
            raise ValueError("it holds half of a surrogate pair, which is no text")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"{what} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise CheckpointError(path, f"{what} is no JSON object")
    return table


def _header(name, facts, path, data_start):
    """One array's header; ValueError says what is wrong with it."""
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("has a header of another kind")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    known = {**DTYPES, **INTEGERS}
    if not isinstance(dtype, str) or dtype not in known:
        raise ValueError(f"has dtype {quoted(dtype)}; only floating-point numbers are read")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ValueError("has an impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError("has impossible offsets")
    num_bytes = offsets[1] - offsets[0]
    expected = math.prod(shape) * known[dtype].itemsize
    if num_bytes != expected:
        raise ValueError(
            f"has {num_bytes} bytes where its shape {quoted(shape)} needs {quoted(expected)}"
        )
    return StoredArray(name, tuple(shape), known[dtype], path, data_start + offsets[0], num_bytes)


def _are_sizes(values):
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62 for v in values
    )


def write(file, arrays):
    """Writes arrays, ordered by name, to a file that is open for writing bytes.

    Args:
        file: binary file.
        arrays: key -> float32, float16 or bfloat16 array.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for key in sorted(arrays):
        array = arrays[key]
        header[key] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for key in sorted(arrays):
        file.write(np.ascontiguousarray(arrays[key]).tobytes())
