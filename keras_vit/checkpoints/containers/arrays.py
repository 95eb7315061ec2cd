"""What all containers share: their first bytes, memory, and what becomes of the numbers."""

import concurrent.futures
import dataclasses
import os
import pathlib
import zlib

import numpy as np

from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular

# First bytes of what people mistake for a checkpoint -> what it is and what to do.
IMPOSTORS = (
    (b"version https://git-lfs", "a git-lfs pointer and not the file it stands for; fetch that"),
    (b"<", "a web page (HTML or XML) and not an array file; download the file itself"),
    (b"\x80\x02", "a pickle, which could run code and is never loaded"),
    (b"\x80\x03", "a pickle, which could run code and is never loaded"),
    (b"\x80\x04", "a pickle, which could run code and is never loaded"),
    (b"\x80\x05", "a pickle, which could run code and is never loaded"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; its name must end with .h5"),
    (b"PK\x03\x04", "a zip archive, such as .npz and .keras files are; name it so"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"GGUF", "a GGUF file; give the safetensors file that it was made of"),
)
# What has no first bytes of its own, by its name's ending.
OTHER_ENDINGS = {
    ".onnx": "but an ONNX model, which serves and is not read; give what it was exported from",
    ".tflite": "but a LiteRT model, which serves and is not read; give what it was exported from",
    ".pb": "but a graph of TensorFlow's, which is not read; give what it was exported from",
    ".msgpack": "but a file of Flax's msgpack, which is not read; give a safetensors file",
}
SAVED_MODEL = (
    "is a SavedModel, which serves and is not read: give what it was exported from, or use "
    "`keras-vit predict --saved_model`"
)


# What PyTorch's own files are called.
PYTORCH_ENDINGS = (".pth", ".pt", ".bin", ".ckpt")
PYTORCH = (
    "a file of PyTorch's pickles, which could run code and is never loaded. Where torch and "
    "safetensors are installed, two lines make a file of it that is read here: "
    "`from torch import load; from safetensors.torch import save_file` and "
    "`save_file({k: v.contiguous() for k, v in load('FILE', weights_only=True).items()}, "
    "'model.safetensors')`; put the config.json of the model beside it"
)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that lies in a file in one piece: its shape and dtype, and where its bytes are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: pathlib.Path
    start: int
    num_bytes: int


def first_bytes(path, ending):
    """The first 64 bytes of a file that can be read and is not empty.

    Raises:
        CheckpointError: if it is neither.
    """
    try:
        if path.is_dir():
            raise CheckpointError(path, f"not a regular file; give the path of a {ending} file")
        with open_regular(path) as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(path, "there is no such file") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(path, "the file is empty")
    return start


def impostor(start, otherwise):
    """What a file is that starts so, to go on with "not a .npz file"; `otherwise` if unknown."""
    for magic, what in IMPOSTORS:
        if start.lstrip().startswith(magic):
            return f"but {what}"
    return otherwise


def aligned_bytes(size, alignment=64):
    """Uninitialised bytes at an address that TensorFlow accepts as a tensor's."""
    buffer = np.empty(size + alignment, np.uint8)
    offset = -buffer.ctypes.data % alignment
    return buffer[offset : offset + size]


def read_bytes_at(path, start, num_bytes):
    """Bytes of a file from `start` on, at an address that TensorFlow accepts as a tensor's.

    Raises:
        ValueError: if the file ends before.
    """
    raw = aligned_bytes(num_bytes)
    view, done = memoryview(raw), 0
    with open_regular(path, buffering=0) as file:
        file.seek(start)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError("is cut off")
            done += count
    return raw


def as_float32(raw, dtype, shape, fortran_order=False):
    """An array's bytes as float32 in C order, without a copy where they are that already.

    Raises:
        ValueError: if a value is not finite.
    """
    array = raw.view(dtype)
    if array.dtype != np.float32 or fortran_order:
        values = array.reshape(shape, order="F" if fortran_order else "C").astype("<f4")
        array = aligned_bytes(values.size * 4).view("<f4")
        array[:] = values.ravel(order="C")
    # Not finite sums are rare enough to look at each value then; a sum of finite ones may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        raise ValueError("holds values that are not finite (NaN or infinity)")
    return array.reshape(shape)


def read_all(path, readers):
    """Reads arrays in parallel.

    Args:
        path: for error messages.
        readers: any key -> (name of the array, function that reads it).

    Returns:
        A dict with the same keys.

    Raises:
        CheckpointError: if any cannot be read; names them all.
    """
    problems = []
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        futures = {key: pool.submit(read) for key, (_, read) in readers.items()}
        arrays = {}
        for key, future in futures.items():
            try:
                arrays[key] = future.result()
            except ValueError as error:
                problems.append(f"array {readers[key][0]!r} {error}")
            except (zlib.error, OSError) as error:
                problems.append(f"array {readers[key][0]!r} is damaged: {error}")
            except MemoryError:
                problems.append(f"array {readers[key][0]!r} takes more memory than there is")
    if problems:
        raise CheckpointError(path, problems)
    return arrays


def read_stored(path, headers, int8=()):
    """Reads arrays into memory that TensorFlow can take over without a copy.

    Args:
        path: for error messages.
        headers: a dict: any key -> `StoredArray`.
        int8: the keys of those that must be int8; all others must be floating-point numbers.

    Returns:
        A dict with the same keys: float32 arrays in C order (float16, bfloat16 and int8 are
        widened, float64 is rounded).

    Raises:
        CheckpointError: if the data is cut off, or a value is not finite; names every such array.
    """
    return read_all(
        path,
        {
            key: (header.name, lambda args=(header, key in int8): _read_stored_array(*args))
            for key, header in headers.items()
        },
    )


def _read_stored_array(header, is_int8):
    if is_int8 and header.dtype != np.int8:
        raise ValueError(f"has dtype {header.dtype.str!r}; kernels of 8 bits are int8")
    if header.dtype.kind in "iu" and not is_int8:
        raise ValueError(f"has dtype {header.dtype.str!r}; only floating-point numbers are read")
    raw = read_bytes_at(header.path, header.start, header.num_bytes)
    return as_float32(raw, header.dtype, header.shape)
