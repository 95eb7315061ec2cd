"""The HDF5 container: what is read, and that nothing else is."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from keras_vit.checkpoints import h5
from keras_vit.checkpoints.errors import CheckpointError

SHAPES = {"a/vars/0": (2, 3), "a/vars/1": (), "b/vars/0": (0, 4), "b/vars/1": (5,)}


def write(path, arrays):
    with open(path, "w+b") as file:
        h5.write(file, arrays)
    return path


def read(path):
    return h5.read_arrays(path, h5.read_headers(path))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        key: rng.normal(size=shape).astype("float32").reshape(shape)
        for key, shape in SHAPES.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_what_is_written_is_read_and_keras_reads_the_same(arrays, dtype, tmp_path):
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    path = write(tmp_path / "f.weights.h5", arrays)
    found = read(path)
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], array.astype("float32"))
    assert path.read_bytes() == write(tmp_path / "g.weights.h5", arrays).read_bytes()

    from keras.src.saving.saving_lib import H5IOStore

    store = H5IOStore(str(path))
    for key, array in arrays.items():
        value = store.get(key.split("/")[0])[key.rsplit("/", maxsplit=1)[-1]]
        assert (value.dtype, value.tobytes()) == (array.dtype, array.tobytes())
    store.close()


def test_other_numbers_are_listed_and_not_read(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["step"] = np.int64(3)
        file["big"] = np.arange(3.0, dtype=">f8")
    headers = h5.read_headers(path)
    assert set(headers) == {"step", "big"}
    np.testing.assert_array_equal(h5.read_arrays(path, {"x": headers["big"]})["x"], [0, 1, 2])
    with pytest.raises(CheckpointError, match="'step' has dtype 'int64'; only floating-point"):
        h5.read_arrays(path, headers)


def external_link(file):
    file["elsewhere"] = h5py.ExternalLink("other.h5", "/a")


def soft_link(file):
    file["soft"] = h5py.SoftLink("/a")


def cycle(file):
    file["group/again"] = file.create_group("group")


def virtual(file):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", shape=(4,))
    file.create_virtual_dataset("virtual", layout)


def external_data(file):
    file.create_dataset("raw", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def bomb(file):
    file.create_dataset("bomb", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def unwritten(file):
    file.create_dataset("unwritten", (1 << 40,), "f4")


def text(file):
    file["words"] = "hello"


def compound(file):
    file["pairs"] = np.zeros(3, [("a", "f4"), ("b", "f4")])


def empty(file):
    file["nothing"] = h5py.Empty("f4")


def twice(file):
    file["b"] = file["a"]


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (external_link, r"'elsewhere' is a link to elsewhere \(ExternalLink\)"),
        (soft_link, r"'soft' is a link to elsewhere \(SoftLink\)"),
        (cycle, "groups are more than 32 deep"),
        (virtual, "'virtual' keeps its data in another file"),
        (external_data, "'raw' keeps its data in another file"),
        (bomb, "'bomb' is chunked or compressed"),
        (unwritten, "'unwritten' has 0 bytes where its shape"),
        (text, "'words' has dtype"),
        (compound, "'pairs' has dtype"),
        (empty, "'nothing' has no shape"),
        (twice, "shares its bytes with another"),
    ],
)
def test_what_keras_does_not_write_is_refused(add, message, tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(4, "float32")
        add(file)
    with pytest.raises(CheckpointError, match=message):
        h5.read_headers(path)


def test_cut_damaged_and_foreign_files_are_one_error(arrays, tmp_path):
    whole = write(tmp_path / "f.h5", arrays).read_bytes()
    path = tmp_path / "bad.h5"
    for length in (0, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read(path)
    path.write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(CheckpointError, match="not a .h5 file but a zip archive"):
        h5.read_headers(path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        h5.read_headers(tmp_path / "none.h5")
    write(path, {"x": np.array([1.0, np.nan], "float32")})
    with pytest.raises(CheckpointError, match="'x' holds values that are not finite"):
        read(path)
