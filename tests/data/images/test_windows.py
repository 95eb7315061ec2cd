"""Sliding windows and joint augmentation."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.images import joint, windows
from keras_vit.models.preprocessing import Preprocessing
from tests.conftest import REFERENCE

DENSE = REFERENCE / "evaluation/dense"
RULE = Preprocessing(image_size=(8, 8), resize="short_side")


def test_the_corners_of_windows_are_the_reference():
    for row in json.loads((DENSE / "sliding_windows.json").read_text()):
        size = tf.constant([row["height"], row["width"]])
        window, stride = (row["window"],) * 2, (row["stride"],) * 2
        corners = windows.window_corners(size, window, stride)
        assert corners.numpy().tolist() == row["top_left"]


def test_averaged_windows_at_the_images_size_are_the_reference():
    with np.load(DENSE / "sliding_windows.npz") as data:
        data = dict(data)
    window, stride = (int(data["window"]),) * 2, (int(data["stride"]),) * 2
    size = tf.constant(data["image"].shape[1:3])
    corners = windows.window_corners(size, window, stride)
    np.testing.assert_array_equal(corners, data["anchors"])
    cut = windows.cut_windows(tf.constant(data["image"][0]), corners, window)
    for part, (top, left) in zip(cut.numpy(), data["anchors"], strict=True):
        expected = data["image"][0, top : top + window[0], left : left + window[1]]
        np.testing.assert_array_equal(part, expected)
    logits = windows.average_windows(tf.constant(data["window_logits"]), corners, size)
    probabilities = tf.nn.softmax(windows.at_size(logits, data["original_size"]))
    # Sums of up to four windows in another order.
    np.testing.assert_allclose(probabilities, data["probabilities"], atol=1e-5)
    classes = windows.classes_at(logits, tf.constant(data["original_size"], tf.int32))
    np.testing.assert_array_equal(classes, data["probabilities"].argmax(-1))


def test_classes_of_many_are_those_of_all_at_once():
    logits = np.random.default_rng(0).integers(0, 3, (4, 5, 40)).astype(np.float32)  # many ties
    expected = windows.at_size(logits, (9, 7)).numpy().argmax(-1)
    np.testing.assert_array_equal(windows.classes_at(tf.constant(logits), (9, 7)), expected)


@pytest.mark.parametrize("size", [(8, 8), (5, 30), (3, 3), (40, 9)])
def test_windows_of_an_image_cover_it_and_are_the_models(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    parts, corners, scaled = windows.windows_of(tf.constant(image), RULE, (5, 5))
    assert parts.shape[1:] == (8, 8, 3)
    assert min(scaled.numpy()) == 8
    covered = np.zeros(scaled.numpy())
    for top, left in corners.numpy():
        covered[top : top + 8, left : left + 8] += 1
    assert covered.min() >= 1
    assert windows.merged(tf.ones((len(parts), 8, 8, 2)), corners, scaled).shape[:2] == scaled


def _pair(height=20, width=31):
    """An image whose red channel says what the mask is."""
    mask = np.random.default_rng(1).integers(0, 5, (height // 4 + 1, width // 4 + 1))
    mask = np.kron(mask, np.ones((4, 4)))[:height, :width].astype(np.uint8)
    return np.repeat(mask[..., None] * 40, 3, -1).astype(np.uint8), mask


def _joint(seed, **options):
    image, mask = _pair()
    rule = Preprocessing(image_size=(16, 24), resize="short_side")
    return joint.training_pair(
        tf.constant(image), tf.constant(mask), rule, tf.constant(seed), **options
    )


def test_an_image_and_its_mask_stay_together():
    for seed in range(8):
        image, mask = (part.numpy() for part in _joint([seed, 1]))
        padded = mask == windows.IGNORE
        assert (image.shape, mask.shape) == ((16, 24, 3), (16, 24))
        np.testing.assert_array_equal(image[padded], 0)
        levels = (image[..., 0] + 1) * 127.5 / 40
        # Between two regions the image is interpolated, and the mask is not.
        assert np.mean(np.abs(levels - mask)[~padded] < 0.51) > 0.75


def test_the_augmentation_is_a_function_of_the_seed():
    first, again, other = _joint([3, 4]), _joint([3, 4]), _joint([3, 5])
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_without_scales_and_mirror_a_crop_is_left():
    image, mask = _pair()
    rule = Preprocessing(image_size=(20, 31), resize="short_side")
    got = joint.training_pair(
        tf.constant(image), tf.constant(mask), rule, tf.constant([0, 0]), (1.0, 1.0), False
    )
    np.testing.assert_array_equal(got[1], mask)
    np.testing.assert_allclose(got[0], image / 127.5 - 1, atol=1e-6)
