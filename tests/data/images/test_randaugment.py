import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_vit.data.images import augmentation_presets, randaugment
from keras_vit.data.images.operations import MIXUP_PARTNERS, MixUp, RandAugment, ResizeCrop

RNG = np.random.default_rng(0)
IMAGE = np.clip(
    np.kron(RNG.integers(30, 200, (6, 8, 3)), np.ones((6, 6, 1)))
    + RNG.integers(0, 30, (36, 48, 3)),
    0,
    255,
).astype(np.uint8)
SEED = (5, 6)


def _apply(name, level, image=IMAGE):
    return randaugment.apply_operation(name, tf.constant(image, tf.float32), SEED, level).numpy()


def _blend(degenerate, factor):
    degenerate = degenerate.astype(np.float32)
    mixed = degenerate + np.float32(factor) * (IMAGE.astype(np.float32) - degenerate)
    return np.floor(np.clip(mixed, 0, 255))


def _auto_contrast(level):
    image = IMAGE.astype(np.float32)
    low, high = image.min((0, 1)), image.max((0, 1))
    scale = np.float32(255.0) / (high - low)
    return np.floor(np.clip(image * scale - low * scale, 0, 255))


def _smooth():
    image = IMAGE.astype(np.float64)
    result = image.copy()
    total = sum(
        (5 if (y, x) == (1, 1) else 1) * image[y : y + 34, x : x + 46]
        for y in range(3)
        for x in range(3)
    )
    # Where the mean is whole, float32 may come out below it: in the official code as well.
    result[1:-1, 1:-1] = np.where(total % 13 == 0, np.nan, total // 13)
    return result


def _grey():
    weights = np.array([0.2989, 0.587, 0.114])
    return np.floor(IMAGE @ weights / 255 * 255.5)[..., None]


# The official formulas (big_vision's pp/autoaugment.py), worked out with NumPy and Pillow.
EXPECTED = {
    "AutoContrast": _auto_contrast,
    "Equalize": lambda level: np.asarray(ImageOps.equalize(Image.fromarray(IMAGE))),
    "Invert": lambda level: 255 - IMAGE,
    "Posterize": lambda level: IMAGE >> (8 - int(level * 0.4)) << (8 - int(level * 0.4)),
    "Solarize": lambda level: np.where(
        int(level / 10 * 256) % 256 > IMAGE.astype(int), IMAGE, 255 - IMAGE
    ),
    "SolarizeAdd": lambda level: np.where(
        IMAGE < 128, np.minimum(IMAGE.astype(int) + int(level * 11), 255), IMAGE
    ),
    "Color": lambda level: _blend(_grey(), level * 0.18 + 0.1),
    "Contrast": lambda level: _blend(np.floor(np.float64(36 * 48 / 256)), level * 0.18 + 0.1),
    "Brightness": lambda level: _blend(np.zeros(()), level * 0.18 + 0.1),
    "Sharpness": lambda level: _blend(_smooth(), level * 0.18 + 0.1),
}


@pytest.mark.parametrize("level", [5, 10, 15])
@pytest.mark.parametrize("name", EXPECTED)
def test_operation_of_colours_gives_the_official_pixels(name, level):
    result, expected = _apply(name, level), EXPECTED[name](level)
    assert result.dtype == np.float32
    # A product that falls on a whole number may be rounded to either side of it.
    known = ~np.isnan(expected)
    differs = np.abs(result - expected)[known]
    assert known.mean() > 0.9
    assert differs.max() <= 1
    assert (differs > 0).mean() < 0.002


def test_operation_equalize_counts_the_last_bin_as_pillow_does():
    # keras-cv leaves out the smallest bin, which is another one where much is white.
    image = np.where(RNG.random(IMAGE.shape) < 0.6, 255, IMAGE).astype(np.uint8)
    expected = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(_apply("Equalize", 10, image), expected)


def _nearest(source_y, source_x):
    """IMAGE at the nearest places, grey outside."""
    y, x = np.rint(source_y).astype(int), np.rint(source_x).astype(int)
    inside = (y >= 0) & (y < 36) & (x >= 0) & (x < 48)
    picked = IMAGE[np.clip(y, 0, 35), np.clip(x, 0, 47)]
    return np.where(inside[..., None], picked, 128)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_operation_of_places_moves_by_the_level_to_either_side(name):
    y, x = np.mgrid[:36, :48].astype(np.float64)
    level = 3
    signs = set()
    for k in range(8):
        result = randaugment.apply_operation(name, tf.constant(IMAGE, tf.float32), (k, 1), level)
        for sign in (-1, 1):
            angle = sign * level * 3 * math.pi / 180
            cos, sin = math.cos(angle), math.sin(angle)
            places = {
                "Rotate": (
                    17.5 + sin * (x - 23.5) + cos * (y - 17.5),
                    23.5 + cos * (x - 23.5) - sin * (y - 17.5),
                ),
                "ShearX": (y, x + sign * level * 0.03 * y),
                "ShearY": (y + sign * level * 0.03 * x, x),
                "TranslateX": (y, x + sign * level * 10),
                "TranslateY": (y + sign * level * 10, x),
            }[name]
            # Halfway between two pixels, either is the nearest.
            if (np.abs(_nearest(*places) - result.numpy()).max(-1) > 0).mean() < 0.02:
                signs.add(sign)
                break
        else:
            raise AssertionError(f"{name} with seed {k} is neither side's")
    assert signs == {-1, 1}


def test_operation_cutout_greys_a_square():
    result = _apply("Cutout", 2)  # 8 pixels to each side
    rows, columns = np.nonzero((result != IMAGE).any(-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) <= 16
    assert (result[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 128).all()


def test_rand_augment_in_tf_data_equals_eager_under_any_policy():
    image = tf.constant(IMAGE, tf.float32)

    def function(seed):
        return randaugment.rand_augment(image, seed, 2, 10.0)

    seeds = np.array([[k, 1] for k in range(12)], np.int32)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        results = [r.numpy() for r in tf.data.Dataset.from_tensor_slices(seeds).map(function)]
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(results[3], function(seeds[3]))
    assert len({result.tobytes() for result in results}) > 8
    assert results[0].dtype == np.float32


def _mix(seed=(1, 2), **options):
    images = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1) * np.ones((1, 20, 30, 3), "f4")
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32)

    def function(images, labels):
        return randaugment.mix_batch(images, labels, seed, 4, **options)

    mixed, targets = function(tf.constant(images), tf.constant(labels))
    dataset = tf.data.Dataset.from_tensors((images, labels)).map(function)
    for eager, mapped in zip((mixed, targets), next(iter(dataset)), strict=True):
        np.testing.assert_array_equal(eager, mapped)
    return mixed.numpy(), targets.numpy(), np.eye(4)[labels]


@pytest.mark.parametrize("partner", MIXUP_PARTNERS)
def test_mix_batch_mixup_has_one_share_for_pixels_and_labels(partner):
    mixed, targets, one_hot = _mix(mixup=0.5, partner=partner)
    other = [(k - 1) % 8 for k in range(8)] if partner == "next" else list(range(7, -1, -1))
    share = (mixed[1, 0, 0, 0] - other[1]) / (1 - other[1])
    assert 0.5 <= share <= 1
    expected = share * np.arange(8) + (1 - share) * np.array(other)
    np.testing.assert_allclose(mixed, expected.reshape(8, 1, 1, 1) * np.ones_like(mixed), atol=1e-5)
    np.testing.assert_allclose(targets, share * one_hot + (1 - share) * one_hot[other], atol=1e-5)


def test_mix_batch_shares_follow_the_beta_distribution():
    shares = []
    for k in range(300):
        images, labels = tf.constant([0.0, 1.0])[:, None, None, None], tf.constant([0, 1])
        mixed, _ = randaugment.mix_batch(images, labels, (k, 0), 2, mixup=0.2)
        shares.append(float(mixed[1, 0, 0, 0]))
    expected = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
    expected = np.maximum(expected, 1 - expected)
    # Standard error of the mean: 0.15 / sqrt(300).
    assert abs(np.mean(shares) - expected.mean()) < 4 * expected.std() / math.sqrt(300)
    assert all(0.5 <= share <= 1 for share in shares)


def test_mix_batch_tiny_p_is_never_nan():
    for k in range(50):
        assert np.isfinite(float(randaugment._beta((k, 0), 0.01)))


def test_mix_batch_cutmix_labels_are_the_areas():
    seen = set()
    for k in range(6):
        mixed, targets, one_hot = _mix((k, 3), cutmix=1.0)
        own = (mixed == np.arange(8).reshape(8, 1, 1, 1)).all(-1).mean((1, 2))
        assert np.ptp(own) < 1e-6
        rows, columns = np.nonzero(mixed[3, ..., 0] != 3)
        if rows.size:  # one rectangle, of the image before
            cut = mixed[3, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (cut == 2).all()
        expected = own[0] * one_hot + (1 - own[0]) * np.roll(one_hot, 1, axis=0)
        np.testing.assert_allclose(targets, expected, atol=1e-5)
        seen.add(round(float(own[0]), 4))
    assert len(seen) > 3


def test_mix_batch_both_takes_either():
    kinds = set()
    for k in range(12):
        mixed, targets, _ = _mix((k, 4), mixup=0.5, cutmix=0.5)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        kinds.add(bool((mixed == np.rint(mixed)).all()))
    assert kinds == {True, False}


def test_augmentations_of_augreg_are_the_papers():
    rows = {}
    for name, augmentation in augmentation_presets.AUGMENTATIONS.items():
        if name.startswith("augreg_"):
            found = {type(o): o for o in augmentation.operations}
            layers = found.get(RandAugment, RandAugment(0, 0))
            mixup = found[MixUp].p if MixUp in found else 0
            rows[name.removeprefix("augreg_")] = (layers.layers, layers.magnitude, mixup)
    assert rows == {
        "none": (0, 0, 0),
        "light1": (2, 0, 0),
        "light2": (2, 10, 0.2),
        "medium1": (2, 15, 0.2),
        "medium2": (2, 15, 0.5),
        "strong1": (2, 20, 0.5),
        "strong2": (2, 20, 0.8),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResizeCrop(0.5), "`scale` must be at least 1. Received: 0.5"),
        (lambda: MixUp(-1.0), "`p` must not be negative. Received: -1"),
        (lambda: MixUp(0.1, "other"), "`partner` must be one of .*Received: 'other'"),
        (lambda: ResizeCrop(1.2, "pad"), "`rule` must be one of"),
        (lambda: augmentation_presets.Augmentation((MixUp(1.0), MixUp(0.5))), "one MixUp"),
    ],
)
def test_operation_wrong_values_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
