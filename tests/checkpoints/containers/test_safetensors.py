"""The safetensors container: right, or one `CheckpointError` that says why not."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.checkpoints.containers.files import write_safetensors
from keras_vit.checkpoints.containers.safetensors import MAX_HEADER_BYTES, read_headers
from keras_vit.errors import CheckpointError

NUM_BYTE_MUTANTS = 400
NUM_HEADER_MUTANTS = 300


def read(path):
    return read_stored(path, read_headers(path))


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"a.weight": rng.normal(size=(3, 4)), "b": rng.normal(size=(5,)), "c": np.ones((2, 0))}


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8"])
def test_files_of_the_safetensors_package_are_read(tmp_path, arrays, dtype):
    stored = {key: array.astype(dtype) for key, array in arrays.items()}
    safetensors.numpy.save_file(stored, tmp_path / "f.safetensors")
    found = read(tmp_path / "f.safetensors")
    assert set(found) == set(stored)
    for key, array in found.items():
        assert array.dtype == np.dtype("float32")
        assert array.ctypes.data % 64 == 0 or not array.size
        np.testing.assert_array_equal(array, stored[key].astype("float32"))


def test_the_safetensors_package_reads_what_is_written(tmp_path, arrays):
    stored = {key: array.astype("float32") for key, array in arrays.items()}
    write_safetensors(tmp_path / "f.safetensors", stored)
    found = safetensors.numpy.load_file(tmp_path / "f.safetensors")
    assert set(found) == set(stored)
    for key, array in found.items():
        np.testing.assert_array_equal(array, stored[key])


def test_bfloat16_is_written_and_read(tmp_path, arrays):
    stored = {key: array.astype(ml_dtypes.bfloat16) for key, array in arrays.items()}
    write_safetensors(tmp_path / "f.safetensors", stored)
    headers = read_headers(tmp_path / "f.safetensors")
    assert {header.dtype for header in headers.values()} == {np.dtype(ml_dtypes.bfloat16)}
    for key, array in read(tmp_path / "f.safetensors").items():
        np.testing.assert_array_equal(array, stored[key].astype("float32"))


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BAD = {
    "empty": (b"", "the file is empty"),
    "short": (b"\x08\0\0", "not a .safetensors file"),
    "pickle": (b"\x80\x04\x95" + b"\0" * 20, "not a .safetensors file but a pickle"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "length": (struct.pack("<Q", 1 << 60) + b"{}", "not a .safetensors file"),
    "no_json": (file_of(b'{"a": nothing}'), "its header cannot be read"),
    "no_unicode": (file_of(b'{"\xff": 1}'), "its header cannot be read"),
    "nested": (file_of(b'{"a":' + b"[" * 100_000), "its header cannot be read"),
    "long_number": (file_of(b'{"a":' + b"9" * 10_000 + b"}"), "its header cannot be read"),
    "twice": (file_of(b'{"a":1,"a":2}'), "a name is there twice"),
    "nothing": (file_of({"__metadata__": {}}), "holds no arrays"),
    "kind": (file_of({"a": [1]}), "'a' has a header of another kind"),
    "dtype": (file_of({"a": entry([2], 0, 4, "I16")}, b"\0" * 4), "only floating-point"),
    "shape": (file_of({"a": entry([-1], 0, 4)}, b"\0" * 4), "an impossible shape"),
    "truth": (file_of({"a": entry([True], 0, 4)}, b"\0" * 4), "an impossible shape"),
    "rank": (file_of({"a": entry([1] * 99, 0, 4)}, b"\0" * 4), "an impossible shape"),
    "offsets": (file_of({"a": entry([1], 4, 0)}, b"\0" * 4), "impossible offsets"),
    "size": (file_of({"a": entry([10**15], 0, 4)}, b"\0" * 4), "has 4 bytes where its shape"),
    "gap": (file_of({"a": entry([1], 4, 8)}, b"\0" * 8), "does not start where the one before"),
    "overlap": (
        file_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4),
        "does not start where the one before",
    ),
    "cut": (file_of({"a": entry([2], 0, 8)}, b"\0" * 4), "is cut off or damaged"),
    "rest": (file_of({"a": entry([1], 0, 4)}, b"\0" * 8), "is cut off or damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_kind_of_damage_is_named(name, tmp_path):
    content, message = BAD[name]
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_headers(tmp_path / "f.safetensors")


def test_a_header_longer_than_any_model_needs_is_not_parsed(tmp_path):
    path = tmp_path / "f.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
    with open(path, "r+b") as file:
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(CheckpointError, match="more than any model needs"):
        read_headers(path)


def test_values_that_are_not_finite_are_named(tmp_path):
    write_safetensors(tmp_path / "f.safetensors", {"a": np.full(3, np.nan, "float32")})
    with pytest.raises(CheckpointError, match="'a' holds values that are not finite"):
        read(tmp_path / "f.safetensors")


def test_every_cut_and_flipped_byte_is_an_error_or_keeps_every_shape(tmp_path, arrays):
    stored = {key: array.astype("float32") for key, array in arrays.items()}
    write_safetensors(tmp_path / "good.safetensors", stored)
    good = (tmp_path / "good.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    path, errors = tmp_path / "bad.safetensors", 0
    for _ in range(NUM_BYTE_MUTANTS):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        if rng.random() < 0.3:
            mutant = mutant[: rng.integers(len(mutant))]
        path.write_bytes(mutant)
        try:
            found = read(path)
        except CheckpointError:
            errors += 1
            continue
        # The format has no checksum: values and names may differ, but no byte is read twice.
        assert sum(array.size for array in found.values()) <= 17 * 2
    assert errors > NUM_BYTE_MUTANTS / 2


def test_every_mutant_of_the_header_is_an_error_or_the_same_arrays(tmp_path, arrays):
    stored = {key: array.astype("float32") for key, array in arrays.items()}
    write_safetensors(tmp_path / "good.safetensors", stored)
    good = (tmp_path / "good.safetensors").read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    rng = np.random.default_rng(1)
    values = [None, -1, 0, 1, 3, 4, 2**63, 1e9, "", "F32", "F16", "I8", [], [4], [3, 4], {}, True]
    path, outcomes = tmp_path / "bad.safetensors", {"same": 0, "error": 0}
    for _ in range(NUM_HEADER_MUTANTS):
        mutant = json.loads(json.dumps(header))
        name = rng.choice(sorted(stored))
        value = values[rng.integers(len(values))]
        match rng.integers(4):
            case 0:
                mutant[name] = value
            case 1:
                mutant[name][rng.choice(["dtype", "shape", "data_offsets", "more"])] = value
            case 2:
                mutant[name]["data_offsets"][rng.integers(2)] = value
            case 3:
                del mutant[name]
        path.write_bytes(file_of(mutant, data))
        try:
            found = read(path)
        except CheckpointError:
            outcomes["error"] += 1
            continue
        outcomes["same"] += 1
        for key, array in found.items():
            np.testing.assert_array_equal(array.ravel(), stored[key].ravel())
    assert outcomes["error"] > NUM_HEADER_MUTANTS / 2
    assert outcomes["same"]
