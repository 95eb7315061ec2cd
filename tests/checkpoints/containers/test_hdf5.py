"""The HDF5 container: what Keras writes, or one `CheckpointError` that says why not."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from keras_vit.checkpoints.containers import hdf5
from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.errors import CheckpointError

NUM_MUTANTS = 600


def read(path):
    return read_stored(path, hdf5.read_headers(path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.weights.h5"


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"layers/a/vars/0": rng.normal(size=(3, 4)), "layers/b/vars/0": rng.normal(size=5)}


def write(path, arrays, **options):
    with h5py.File(path, "w", **options) as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "bfloat16"])
def test_floats_of_any_kind_arrive_as_float32(path, arrays, dtype):
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    stored = {key: array.astype(dtype) for key, array in arrays.items()}
    write(path, stored)
    found = read(path)
    assert set(found) == set(stored)
    for key, array in found.items():
        assert array.dtype == np.float32
        assert array.ctypes.data % 64 == 0
        np.testing.assert_array_equal(array, stored[key].astype("float32"))


def test_many_members_of_a_group_need_a_deep_tree_and_are_read(path):
    stored = {f"g/{i:04d}": np.float32([i]) for i in range(2000)}
    write(path, stored)
    found = read(path)
    assert {key: array[0] for key, array in found.items()} == {k: a[0] for k, a in stored.items()}


def test_names_that_keras_gives_groups_are_read(path, arrays):
    write(path, arrays)
    with h5py.File(path, "r+") as file:
        file["layers/a/vars"].attrs["name"] = "encoderblock_0"
        file["layers/b/vars"].attrs["name"] = "h\u00f6her"
        file["layers/b/vars"].attrs["number"] = 3
    found = hdf5.read_file(path).attributes
    assert found["layers/a/vars"] == {"name": "encoderblock_0"}
    assert found["layers/b/vars"] == {"name": "h\u00f6her", "number": None}


def test_groups_at_the_top_can_be_left_out(path, arrays):
    write(path, {**arrays, "optimizer/vars/0": np.arange(3)})
    assert set(hdf5.read_file(path, skip=["optimizer"]).arrays) == set(arrays)


def test_integers_have_headers_and_are_refused_as_weights(path, arrays):
    write(path, {**arrays, "steps": np.arange(3)})
    headers = hdf5.read_headers(path)
    assert headers["steps"].shape == (3,)
    with pytest.raises(CheckpointError, match="'steps' has dtype '<i8'; only floating-point"):
        read_stored(path, headers)


def soft_link(file, values):
    file["layers/c"] = h5py.SoftLink("/layers/a")


def external_link(file, values):
    file["layers/c"] = h5py.ExternalLink("/etc/hostname", "/a")


def hard_link(file, values):
    file["layers/c"] = file["layers/a"]


def group_in_itself(file, values):
    file["layers/a/c"] = file["layers"]


def virtual(file, values):
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "a", values.shape)
    file.create_virtual_dataset("layers/c", layout)


def external_storage(file, values):
    place = [("/etc/hostname", 0, values.nbytes)]
    file.create_dataset("layers/c", values.shape, "f4", external=place)


def chunked(file, values):
    file.create_dataset("layers/c", data=values, chunks=True)


def compressed(file, values):
    file.create_dataset("layers/c", data=values, compression="gzip")


def made_up(file, values):
    file.create_dataset("layers/c", (10**12,), "f4", fillvalue=1.0)


def strings(file, values):
    file["layers/c"] = ["a", "b"]


def pairs(file, values):
    file["layers/c"] = np.zeros(3, [("a", "f4"), ("b", "f4")])


def void(file, values):
    file["layers/c"] = np.zeros(3, "V4")


def new_group(file, values):
    file.create_group("layers/c", track_order=True)


def named_type(file, values):
    file["type"] = np.dtype("f4")
    file.create_dataset("layers/c", data=values, dtype=file["type"])


REFUSED = {
    soft_link: "holds a link, which is never followed",
    external_link: "links of a newer kind|a group of a newer kind|holds a link",
    hard_link: "is there under two names",
    group_in_itself: "is there under two names",
    virtual: "does not lie in the file in one piece",
    external_storage: "data in another file, which is never opened",
    chunked: "does not lie in the file in one piece",
    compressed: "is compressed or filtered",
    made_up: r"'layers/c' has 0 bytes|is not in the file",
    strings: "another type than plain numbers",
    pairs: "another type than plain numbers",
    void: "another type than plain numbers",
    new_group: "of a newer kind than Keras writes",
    named_type: "shared|has no shape, type or place",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_keras_does_not_write_is_refused_by_name(change, path, arrays):
    write(path, arrays)
    with h5py.File(path, "r+") as file:
        change(file, np.ones((3, 4), "float32"))
    with pytest.raises(CheckpointError, match=REFUSED[change]):
        read(path)


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"userblock_size": 512}])
def test_other_versions_of_the_format_are_refused(options, path, arrays):
    write(path, arrays, **options)
    with pytest.raises(CheckpointError, match="another version|not an HDF5 file"):
        read(path)


def test_arrays_within_each_other_are_refused(path, arrays):
    write(path, arrays)
    headers = hdf5.read_headers(path)
    first, second = (headers[key].start for key in headers)
    data = path.read_bytes().replace(
        second.to_bytes(8, "little"), (first + 8).to_bytes(8, "little")
    )
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="begins within another"):
        read(path)


def test_a_cut_file_and_a_longer_one_are_refused(path, arrays):
    write(path, arrays)
    good = path.read_bytes()
    for content in (good[:-1], good[: len(good) // 2], good[:40], good + b"\0"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or cut off"):
            read(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="not an HDF5 file"):
        read(path)


def test_values_that_are_not_finite_are_named(path, arrays):
    write(path, {**arrays, "bad": np.float32([1, np.nan])})
    with pytest.raises(CheckpointError, match="'bad' holds values that are not finite"):
        read(path)


def test_every_cut_and_flipped_byte_is_an_error_or_keeps_every_shape(path, arrays):
    stored = {key: array.astype("float32") for key, array in arrays.items()}
    write(path, stored)
    good, rng, errors = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(NUM_MUTANTS):
        mutant = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        path.write_bytes(mutant)
        try:
            found = read(path)
        except CheckpointError:
            errors += 1
            continue
        assert sum(array.size for array in found.values()) <= 17
    assert errors > NUM_MUTANTS / 10


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_what_is_written_is_read_and_keras_reads_the_same(dtype, tmp_path):
    from keras.src.saving.saving_lib import H5IOStore

    shapes = {"a/vars/0": (2, 3), "a/vars/1": (), "b/vars/0": (0, 4), "b/vars/1": (5,)}
    rng = np.random.default_rng(0)
    arrays = {key: np.asarray(rng.normal(size=s)).astype(dtype) for key, s in shapes.items()}
    paths = [tmp_path / name for name in ("f.weights.h5", "again.weights.h5")]
    for path in paths:
        with open(path, "w+b") as file:
            hdf5.write(file, arrays)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = read_stored(paths[0], hdf5.read_headers(paths[0]))
    assert set(found) == set(arrays)
    store = H5IOStore(str(paths[0]))
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array.astype("float32"))
        value = store.get(key.split("/")[0])[key.rsplit("/", maxsplit=1)[-1]]
        assert (value.dtype, value.tobytes()) == (array.dtype, array.tobytes())
    store.close()


def test_a_message_without_contents_is_an_error(path, arrays):
    write(path, arrays)
    reader = hdf5._Reader(path, None, 0, 100, frozenset())
    with pytest.raises(ValueError, match="is cut off"):
        reader.array({1: [b""], 3: [b""], 8: [b""]}, "a")
