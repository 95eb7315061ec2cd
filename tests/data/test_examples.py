import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import examples, pipeline
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(16, 16))


@pytest.fixture
def photographs(tmp_path, encode):
    """Nine images of other sizes, JPEG and PNG, in two classes."""
    rng = np.random.default_rng(0)
    for k in range(9):
        pixels = rng.integers(0, 256, (20 + 3 * k, 41 - 2 * k, 3), dtype=np.uint8)
        path = tmp_path / "train" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels, ("JPEG", "PNG")[k % 3 == 0]))
    return pipeline.resolve(tmp_path)


def _batches(info, augmentation):
    dataset = pipeline.training_dataset(
        info, "train", RULE, batch_size=4, seed=1, augmentation=augmentation
    )
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(7)]


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "bit_160_128_mixup"])
def test_load_as_pixels_trains_on_the_same_bits_as_files_read_again(
    photographs, augmentation, monkeypatch
):
    pixels = _batches(photographs, augmentation)
    monkeypatch.setattr(examples, "MAX_PIXEL_BYTES", 0)
    for ours, theirs in zip(pixels, _batches(photographs, augmentation), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_load_as_pixels_holds_every_image_whole(photographs):
    files = examples.load(photographs, "train")
    pixels = examples.load(photographs, "train", as_pixels=True)
    assert not isinstance(files.records, type(pixels.records))
    for place in range(9):
        expected = files.read(tf.constant(place, tf.int64))
        ours = pixels.read(tf.constant(place, tf.int64))
        np.testing.assert_array_equal(ours.image(), expected.image())
        assert int(ours.label) == int(expected.label)


@pytest.mark.parametrize("num_enough", [2, 256])
def test_load_as_pixels_above_the_limit_keeps_the_files(photographs, monkeypatch, num_enough):
    size = sum(20 + 3 * k for k in range(9)) * 3 * 25
    monkeypatch.setattr(examples, "MAX_PIXEL_BYTES", size // 2)
    monkeypatch.setattr(examples, "_ENOUGH", num_enough)
    records = examples.load(photographs, "train", as_pixels=True).records
    assert records.dtype == tf.string


def test_evaluation_dataset_repeated_gives_the_same_bits(photographs):
    once, again = (
        pipeline.evaluation_dataset(photographs, "train", RULE, batch_size=4, repeated=repeated)
        for repeated in (False, True)
    )
    for ours, theirs in zip(again, once, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
