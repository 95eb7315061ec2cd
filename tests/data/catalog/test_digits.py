import hashlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_vit.data.catalog import digits, names, resolve

# split -> examples of each digit 0..9, and SHA-256 of the sorted indices as little-endian int64.
PINNED = {
    "train": (
        [106, 109, 106, 109, 108, 109, 108, 107, 104, 108],
        "5c9c86e5233efacdfdd719559cbdf97abc5754364dcf2226c3f0c2f1dd0924de",
    ),
    "validation": (
        [36, 36, 35, 37, 36, 36, 36, 36, 35, 36],
        "7536dc497ba078fca5fbc6d0ddedcec0893b7e88ec085329c0981671095372f5",
    ),
    "test": (
        [36, 37, 36, 37, 37, 37, 37, 36, 35, 36],
        "42f67595bcc664f3cb0732617d2a4e8179ca4def64dbd6768479d45eb7421737",
    ),
}


def test_split_indices_of_the_digits_are_pinned():
    targets = load_digits().target
    splits = digits.split_indices(targets)
    assert list(splits) == list(PINNED)
    for split, (counts, digest) in PINNED.items():
        assert np.bincount(targets[splits[split]]).tolist() == counts
        assert hashlib.sha256(splits[split].astype("<i8").tobytes()).hexdigest() == digest


def test_split_indices_are_disjoint_and_cover_everything():
    splits = digits.split_indices(load_digits().target)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(1797))


def _examples(config, split, digits_dir):
    dataset = tfds.load(f"digits/{config}", split=split, data_dir=digits_dir, as_supervised=True)
    return [(image, int(label)) for image, label in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("config", ["all", "upstream", "downstream"])
def test_digits_config_holds_its_classes_of_the_pinned_splits(config, digits_dir):
    data = load_digits()
    pixels = np.rint(data.images * 255 / 16).astype(np.uint8)
    for split, indices in digits.split_indices(data.target).items():
        first, last = {"all": (0, 9), "upstream": (0, 4), "downstream": (5, 9)}[config]
        expected = sorted(
            (pixels[index].tobytes(), int(data.target[index]) - first)
            for index in indices
            if first <= data.target[index] <= last
        )
        examples = _examples(config, split, digits_dir)
        assert {image.shape for image, _ in examples} == {(8, 8, 1)}
        assert sorted((image.tobytes(), label) for image, label in examples) == expected


def test_digits_sizes_are_those_of_the_table(digits_dir):
    for config in ("all", "upstream", "downstream"):
        info = resolve.resolve(f"digits/{config}", digits_dir)
        assert info.split_sizes == names.get_dataset(f"digits/{config}").sizes


def test_digits_class_names_are_the_digits(digits_dir):
    assert resolve.resolve("digits/all", digits_dir).class_names == tuple("0123456789")
    assert resolve.resolve("digits/upstream", digits_dir).class_names == tuple("01234")
    assert resolve.resolve("digits/downstream", digits_dir).class_names == tuple("56789")


def test_digits_preparation_opens_no_socket_and_prints_nothing(tmp_path, monkeypatch, capfd):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    info = resolve.resolve("digits/downstream", tmp_path)
    assert info.split_sizes == {"train": 536, "validation": 179, "trainval": 715, "test": 181}
    assert capfd.readouterr().out == ""


def test_digits_value_range_is_all_of_uint8(digits_dir):
    images = tf.stack([image for image, _ in _examples("upstream", "test", digits_dir)])
    assert int(tf.reduce_min(images)) == 0
    assert int(tf.reduce_max(images)) == 255
