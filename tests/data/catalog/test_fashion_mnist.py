"""Fashion-MNIST from files in the layout of Debian's package, and its row of the table."""

import gzip

import numpy as np
import pytest

from keras_vit.data import pipeline
from keras_vit.data.catalog import fashion_mnist, names


def _write(path, magic, array):
    header = np.array([magic, *array.shape], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Forty and twenty made-up images in the place of the package's."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for split, prefix, size in (("train", "train", 40), ("test", "t10k", 20)):
        images = rng.integers(0, 256, (size, 28, 28), np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        _write(folder / f"{prefix}-images-idx3-ubyte.gz", 0x803, images)
        _write(folder / f"{prefix}-labels-idx1-ubyte.gz", 0x801, labels)
        arrays[split] = images, labels
    monkeypatch.setattr(fashion_mnist, "PACKAGE_FOLDER", folder)
    monkeypatch.setattr(fashion_mnist, "_SIZES", {"train": 40, "test": 20})
    return folder, arrays


def test_package_is_prepared_without_a_download(package, tmp_path):
    info = pipeline.resolve("fashion_mnist", tmp_path / "tfds")
    assert info.class_names[:3] == ("T-shirt/top", "Trouser", "Pullover")
    assert info.split_sizes == {"train": 36, "validation": 4, "trainval": 40, "test": 20}
    import tensorflow as tf

    expected = sorted(image.tobytes() for image in package[1]["test"][0])
    stream = info.source.stream("test")
    found = [tf.io.decode_image(image).numpy()[..., 0] for image, _ in stream]
    assert sorted(image.tobytes() for image in found) == expected


def test_row_has_the_published_sizes():
    row = names.get_dataset("fashion_mnist")
    assert row.sizes == {"train": 54_000, "validation": 6_000, "trainval": 60_000, "test": 10_000}
    assert row.num_classes == 10


def test_file_that_is_cut_is_an_error(package):
    path = package[0] / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(ValueError, match="an IDX file must .*19 values"):
        fashion_mnist.read_idx(path, 0x801)
    with pytest.raises(ValueError, match="must begin with 0x803"):
        fashion_mnist.read_idx(path, 0x803)


def test_package_of_another_size_is_an_error(package, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "_SIZES", {"train": 60_000, "test": 10_000})
    with pytest.raises(ValueError, match="has 60000 images in 'train'. Received: 40 images"):
        pipeline.resolve("fashion_mnist", tmp_path / "tfds")
