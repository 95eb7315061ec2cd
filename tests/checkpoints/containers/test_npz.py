"""The `.npz` container: right, or one `CheckpointError` that says why not."""

import io
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import pytest

from keras_vit.checkpoints.containers.files import write_npz
from keras_vit.checkpoints.containers.npz import read_arrays, read_headers
from keras_vit.errors import CheckpointError

NUM_MUTANTS = 400


def read(path):
    return read_arrays(path, read_headers(path))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"a/kernel": rng.normal(size=(3, 4)), "b": rng.normal(size=(5,))}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4", "bfloat16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_any_kind_arrive_as_float32(tmp_path, arrays, save, dtype, order):
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    stored = {key: np.asarray(value, dtype=dtype, order=order) for key, value in arrays.items()}
    save(tmp_path / "f.npz", **stored)
    found = read(tmp_path / "f.npz")
    assert list(found) == list(stored)
    for key, array in found.items():
        assert array.dtype == np.dtype("float32")
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0
        np.testing.assert_array_equal(array, stored[key].astype("float32"))


def test_writing_is_repeatable_and_leaves_nothing_beside(tmp_path, arrays):
    for name in ("one.npz", "two.npz"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_headers_tell_shapes_without_reading_data(tmp_path, arrays):
    write_npz(tmp_path / "f.npz", arrays)
    assert {k: h.shape for k, h in read_headers(tmp_path / "f.npz").items()} == {
        "a/kernel": (3, 4),
        "b": (5,),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"\x80\x04\x95", "a pickle, which could run code"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", r"not a .npz file \(a zip"),
        (b"PK\x03\x04 and then nothing", "damaged or cut off"),
    ],
)
def test_what_is_not_a_zip_of_arrays_is_named(tmp_path, content, message):
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_headers(tmp_path / "f.npz")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_headers(tmp_path / "none.npz")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_headers(tmp_path)


def test_pickled_complex_and_doubled_arrays_are_all_listed(tmp_path):
    path = tmp_path / "f.npz"
    objects, numbers, good = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    np.save(numbers, np.arange(3) * 1j)
    np.save(good, np.ones(3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("objects.npy", objects.getvalue())
        archive.writestr("numbers.npy", numbers.getvalue())
        archive.writestr("twice.npy", good.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.npy", good.getvalue())
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CheckpointError) as caught:
        read_headers(path)
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    for part in ("'objects' holds pickled", "'numbers' has dtype '<c16'", "twice", "notes.txt"):
        assert part in text


def test_values_that_are_not_finite_are_named(tmp_path):
    np.savez(tmp_path / "f.npz", a=np.ones(3), b=np.array([1.0, np.nan]), c=np.array([np.inf]))
    with pytest.raises(CheckpointError, match="not finite") as caught:
        read(tmp_path / "f.npz")
    assert len(caught.value.problems) == 2


def test_finite_values_whose_sum_overflows_are_read(tmp_path):
    np.savez(tmp_path / "f.npz", a=np.full(8, 3e38, "float32"))
    assert read(tmp_path / "f.npz")["a"][0] == np.float32(3e38)


def test_a_shape_larger_than_the_file_takes_no_memory(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(CheckpointError, match="its shape .* needs 4000000000000"):
        read_headers(tmp_path / "f.npz")


def test_every_cut_and_every_flipped_byte_is_right_or_an_error(tmp_path, arrays):
    write_npz(tmp_path / "good.npz", arrays)
    good, expected = (tmp_path / "good.npz").read_bytes(), read(tmp_path / "good.npz")
    rng = np.random.default_rng(0)
    path = pathlib.Path(tmp_path / "bad.npz")
    outcomes = {"same": 0, "error": 0}
    for _ in range(NUM_MUTANTS):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        if rng.random() < 0.3:
            mutant = mutant[: rng.integers(len(mutant))]
        path.write_bytes(mutant)
        try:
            found = read(path)
        except CheckpointError:
            outcomes["error"] += 1
            continue
        if set(found) != set(expected):
            continue  # a flipped byte in a name: the format's table refuses the unknown key
        for key, array in found.items():
            np.testing.assert_array_equal(array, expected[key])
        outcomes["same"] += 1
    assert outcomes["error"] > NUM_MUTANTS / 2
