"""Whether a file is the one that was wanted: size, digests, and that it opens as its name says."""

import functools
import hashlib
import json

from keras_vit.checkpoints.containers import zip_archive
from keras_vit.checkpoints.containers.arrays import impostor
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular

_START_BYTES = 512
_MAX_JSON_BYTES = 64 << 20
_HDF5 = b"\x89HDF\r\n\x1a\n"


def differences(path, *, num_bytes=None, sha256=None, md5=None):
    """What contradicts the expected values, in words; "" if nothing does."""
    if num_bytes is not None and (size := path.stat().st_size) != num_bytes:
        return f"has {size} bytes instead of {num_bytes}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            with open_regular(path) as f:
                empty = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
                found = hashlib.file_digest(f, empty).hexdigest()
            if found != expected.lower():
                return f"has the {algorithm} {found} instead of {expected.lower()}"
    return ""


def find_problem(path, name):
    """Why a file cannot be what its name says, in words that go after "what came"; "" if it can.

    Args:
        path: Path of the file as it came.
        name: Name that it is to have.
    """
    with open_regular(path, follow_links=False) as file:
        start = file.read(_START_BYTES)
    if not start:
        return "is empty"
    ending = name.rpartition(".")[2].lower()
    if ending in _CHECKS:
        problem = _CHECKS[ending](path, start)
        return f"is no .{ending} file {impostor(start, '')}".rstrip() if problem else ""
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"is {impostor(b'<', '').removeprefix('but ')}"
    return ""


def _is_no_archive(path, start):
    if not start.startswith(b"PK"):
        return True
    try:
        zip_archive.read_directory(path)
    except CheckpointError:
        return True
    return False


def _is_no_json(path, start):
    del start
    with open_regular(path, follow_links=False) as file:
        text = file.read(_MAX_JSON_BYTES)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


_CHECKS = {
    "npz": _is_no_archive,
    "keras": _is_no_archive,
    "h5": lambda path, start: not start.startswith(_HDF5),
    "safetensors": lambda path, start: start[8:9] != b"{",
    "json": _is_no_json,
    "txt": lambda path, start: start.lstrip().startswith(b"<"),
    "csv": lambda path, start: start.lstrip().startswith(b"<"),
}
