import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_vit.data.images import chance, operations, preprocess, resize
from keras_vit.data.images.augmentation_presets import AUGMENTATIONS, Augmentation
from keras_vit.data.images.operations import Flip, InceptionCrop, RandAugment, Rotation, Shift

# TensorFlow's sampling positions are float32: their rounding, up to 2e-6 pixels, times 255.
ATOL = 5e-4
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (11, 17, 3), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The attributes of `keras_vit.models.preprocessing.Preprocessing`."""

    image_size: tuple
    value_range: tuple = (-1.0, 1.0)
    resize: str = "squash"
    resize_to: tuple | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple | None = None
    std: tuple | None = None
    channels: int = 3
    orientation: str | None = None


def _bilinear(image, height, width):
    """Half-pixel centres, edge repeated, no antialiasing."""

    def weights(new, old):
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, old - 1)
        matrix = np.zeros((new, old))
        np.add.at(matrix, (np.arange(new), low), 1 - (position - low))
        np.add.at(matrix, (np.arange(new), high), position - low)
        return matrix

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("ab,bdc,ed->aec", rows, image.astype(np.float64), columns)


def _in_tf_data(function, *arguments):
    """Applies a function to tensors whose sizes the graph does not know."""

    def elements():
        yield tuple(arguments)

    signature = tuple(
        tf.TensorSpec((None, None, a.shape[-1]) if np.ndim(a) == 3 else np.shape(a), a.dtype)
        for a in arguments
    )
    dataset = tf.data.Dataset.from_generator(elements, output_signature=signature).map(function)
    return next(iter(dataset)).numpy()


def _both(function, *arguments):
    """The result, the same eagerly and inside tf.data."""
    arguments = [np.asarray(a) for a in arguments]
    eager = function(*map(tf.constant, arguments)).numpy()
    np.testing.assert_array_equal(_in_tf_data(function, *arguments), eager)
    return eager


@pytest.mark.parametrize("size", [(5, 6), (11, 17), (23, 8)])
def test_resize_bilinear_equals_numpy(size):
    resized = _both(lambda image: resize.resize(image, size), IMAGE)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, _bilinear(IMAGE, *size), atol=ATOL)


@pytest.mark.parametrize("size", [(3, 4), (16, 16), (37, 41)])
def test_resize_bilinear_of_large_images_gives_the_same_bits(size, monkeypatch):
    expected = resize.resize(IMAGE, size).numpy()
    monkeypatch.setattr(resize, "_MAX_FLOATS", 0)
    np.testing.assert_array_equal(resize.resize(IMAGE, size), expected)


def test_resize_area_by_a_whole_factor_is_the_mean():
    image = IMAGE[:10, :15]
    resized = _both(lambda image: resize.resize(image, (5, 5), "area"), image)
    expected = image.astype(np.float64).reshape(5, 2, 5, 3, 3).mean((1, 3))
    np.testing.assert_allclose(resized, expected, atol=ATOL)


def test_resize_bicubic_keeps_to_the_pixels_range():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    resized = _both(lambda image: resize.resize(image, (16, 16), "bicubic"), image)
    assert resized.min() == 0
    assert resized.max() == 255
    np.testing.assert_allclose(resized[0, :, 0] + resized[0, ::-1, 0], 255, atol=ATOL)


def test_resize_unknown_method_raises():
    with pytest.raises(ValueError, match="`method` must be one of .*Received: 'lanczos'"):
        resize.resize(IMAGE, (4, 4), "lanczos")


def test_scale_pixels_official_range_is_the_official_formula():
    pixels = np.arange(256, dtype=np.uint8)
    expected = (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    np.testing.assert_array_equal(resize.scale_pixels(pixels, (-1.0, 1.0)), expected)
    unit = resize.scale_pixels(pixels, (0.0, 1.0))
    np.testing.assert_allclose(unit, pixels / 255, atol=1e-7)


def test_evaluation_image_mean_and_deviation_are_those_of_each_channel():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rule = Rule(image_size=(11, 17), value_range=(0.0, 1.0), mean=mean, std=std)
    image = _both(lambda image: preprocess.evaluation_image(image, rule), IMAGE)
    np.testing.assert_allclose(image, (IMAGE / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize(("name", "filter_"), [("bilinear", 2), ("bicubic", 3)])
def test_evaluation_image_antialiasing_is_pillows_but_for_its_rounding(name, filter_):
    photo = RNG.integers(0, 256, (61, 47, 3), dtype=np.uint8)
    rule = Rule(image_size=(14, 11), value_range=(0, 255), interpolation=name, antialias=True)
    image = _both(lambda image: preprocess.evaluation_image(image, rule), photo)
    expected = np.asarray(PIL.Image.fromarray(photo).resize((11, 14), filter_), "float32")
    # Pillow rounds to integers after each of the two directions.
    np.testing.assert_allclose(image, expected, atol=1.0)


def test_evaluation_image_squash_resizes_the_whole_image():
    rule = Rule(image_size=(8, 6))
    image = _both(lambda image: preprocess.evaluation_image(image, rule), IMAGE)
    np.testing.assert_allclose(image, _bilinear(IMAGE, 8, 6) / 127.5 - 1, atol=ATOL)


def test_evaluation_image_squash_with_margin_crops_the_middle():
    rule = Rule(image_size=(8, 6), resize_to=(11, 10))
    image = _both(lambda image: preprocess.evaluation_image(image, rule), IMAGE)
    expected = _bilinear(IMAGE, 11, 10)[1:9, 2:8]
    np.testing.assert_allclose(image, expected / 127.5 - 1, atol=ATOL)


@pytest.mark.parametrize(
    ("source", "resized", "corner"),
    [((11, 17), (8, 12), (1, 3)), ((17, 11), (12, 8), (3, 1)), ((8, 8), (8, 8), (1, 1))],
)
def test_evaluation_image_short_side_keeps_the_aspect_ratio(source, resized, corner):
    # 17 * 8 / 11 = 12.36
    source = RNG.integers(0, 256, (*source, 3), dtype=np.uint8)
    rule = Rule(image_size=(6, 6), resize_to=(8, 8), resize="short_side", value_range=(0, 255))
    image = _both(lambda image: preprocess.evaluation_image(image, rule), source)
    top, left = corner
    expected = _bilinear(source, *resized)[top : top + 6, left : left + 6]
    np.testing.assert_allclose(image, expected, atol=ATOL)


def test_evaluation_image_grey_is_repeated():
    grey = IMAGE[..., :1]
    rule = Rule(image_size=(8, 8))
    image = _both(lambda image: preprocess.evaluation_image(image, rule), grey)
    rgb = preprocess.evaluation_image(np.repeat(grey, 3, -1), rule)
    np.testing.assert_array_equal(image, rgb)


def test_evaluation_image_shape_is_static():
    dataset = tf.data.Dataset.from_tensors(IMAGE)
    for rule in (Rule(image_size=(8, 6)), Rule(image_size=(8, 6), resize="short_side")):
        mapped = dataset.map(lambda image, rule=rule: preprocess.evaluation_image(image, rule))
        assert mapped.element_spec == tf.TensorSpec((8, 6, 3), tf.float32)


def test_evaluation_image_wrong_pixels_raise():
    rule = Rule(image_size=(8, 8))
    with pytest.raises(TypeError, match="must be uint8 .*Received: float32"):
        preprocess.evaluation_image(IMAGE.astype(np.float32), rule)
    with pytest.raises(ValueError, match=r"shape \(H, W, 1\) or \(H, W, 3\). Received: \(11, 17\)"):
        preprocess.evaluation_image(IMAGE[..., 0], rule)
    with pytest.raises(ValueError, match="`resize` must be .*Received: 'pad'"):
        preprocess.evaluation_image(IMAGE, Rule(image_size=(8, 8), resize="pad"))


def test_inception_crop_windows_keep_to_their_ranges():
    # The pixels say where they are: red is the row, green the column.
    rows, columns = np.meshgrid(np.arange(80), np.arange(100), indexing="ij")
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    areas, corners = [], set()
    for k in range(200):
        crop = chance.inception_crop(image, (k, 0), (0.2, 0.5), (0.75, 1.33)).numpy()
        height, width, _ = crop.shape
        areas.append(height * width / 8000)
        # Sizes are rounded to whole pixels.
        assert 0.72 < width / height < 1.37
        top, left, _ = crop[0, 0]
        corners.add((top, left))
        np.testing.assert_array_equal(crop, image[top : top + height, left : left + width])
    assert min(areas) > 0.19
    assert max(areas) < 0.51
    assert max(areas) - min(areas) > 0.2
    assert len(corners) > 100


@pytest.mark.parametrize(
    "function",
    [
        chance.inception_crop,
        chance.random_flip,
        lambda image, seed: chance.random_shift(image, seed, 0.3),
        lambda image, seed: chance.random_rotation(tf.cast(image, tf.float32), seed, 20.0),
    ],
)
def test_random_functions_depend_on_the_seed_alone(function):
    results = {}
    for k in range(8):
        results[k] = _both(function, IMAGE, np.array([3, k], np.int32))
        np.testing.assert_array_equal(function(IMAGE, (3, k)), results[k])
    assert len({result.tobytes() for result in results.values()}) > 1


def test_random_shift_moves_and_repeats_the_edge():
    image = np.arange(10, dtype=np.uint8).reshape(1, 10, 1).repeat(10, 0)
    seen = set()
    for k in range(60):
        row = chance.random_shift(image, (0, k), 0.2).numpy()[0, :, 0].astype(int)
        offset = row[5] - 5
        seen.add(offset)
        np.testing.assert_array_equal(row, np.clip(np.arange(10) + offset, 0, 9))
    assert seen == {-2, -1, 0, 1, 2}


def test_random_rotation_turns_about_the_centre():
    # A linear ramp stays linear: its value at (x, y) becomes that at the turned point.
    y, x = np.mgrid[-5:6, -5:6].astype(np.float32)
    angles = set()
    for k in range(20):
        turned_x = chance.random_rotation(x[..., None], (0, k), 30.0).numpy()[..., 0]
        turned_y = chance.random_rotation(y[..., None], (0, k), 30.0).numpy()[..., 0]
        sine, cosine = turned_y[5, 6], turned_x[5, 6]
        np.testing.assert_allclose(sine**2 + cosine**2, 1.0, atol=1e-4)
        inside = (slice(2, 9), slice(2, 9))  # nothing comes from beyond the edge here
        np.testing.assert_allclose(turned_x[inside], (cosine * x - sine * y)[inside], atol=1e-4)
        np.testing.assert_allclose(turned_y[inside], (sine * x + cosine * y)[inside], atol=1e-4)
        angles.add(round(float(np.degrees(np.arctan2(sine, cosine))), 2))
    assert -30 <= min(angles) < -10
    assert 10 < max(angles) <= 30


@pytest.mark.parametrize(
    "name",
    # Of those that differ in RandAugment and MixUp only, which test_augment.py is about, one.
    [n for n, a in AUGMENTATIONS.items() if not a.mixes and "RandAugment" not in str(a)]
    + ["augreg_light1"],
)
def test_training_image_is_a_function_of_its_seed(name):
    rule = Rule(image_size=(8, 6))

    def function(image, seed):
        return preprocess.training_image(image, rule, seed, name)

    images = [_both(function, IMAGE, np.array([k, 1], np.int32)) for k in range(4)]
    for image in images:
        assert image.shape == (8, 6, 3)
        assert -1 <= image.min() <= image.max() <= 1
    num_distinct = len({image.tobytes() for image in images})
    assert num_distinct == 1 if name == "none" else num_distinct > 1


def test_training_image_without_augmentation_is_the_evaluation_image():
    rule = Rule(image_size=(8, 6), resize_to=(9, 9))
    np.testing.assert_array_equal(
        preprocess.training_image(IMAGE, rule, (0, 0), "none"),
        preprocess.evaluation_image(IMAGE, rule),
    )


@pytest.mark.parametrize("name", ["resize_crop_flip", "resize_small_crop_flip", "bit_160_128"])
def test_training_image_resize_then_crop_is_a_window_of_the_resized_image(name):
    rule = Rule(image_size=(6, 6), value_range=(0, 255))
    augmentation = preprocess.get_augmentation(name)
    side = round(6 * augmentation.crop.scale)
    if augmentation.crop.rule == "short_side":
        resized = resize.resize(IMAGE, (side, round(17 * side / 11)), "area").numpy()
    else:
        resized = resize.resize(IMAGE, (side, side)).numpy()
    resized = np.floor(resized) if "Truncate" in str(augmentation) else resized
    height, width, _ = resized.shape
    windows = {}
    for top in range(height - 5):
        for left in range(width - 5):
            window = resized[top : top + 6, left : left + 6]
            windows[window.tobytes()] = (top, left, False)
            windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, True)
    found = []
    for k in range(20):
        image = preprocess.training_image(IMAGE, rule, (k, 0), name).numpy()
        # The value range of the input is undone exactly up to a rounding.
        closest = min(windows, key=lambda w: np.abs(np.frombuffer(w, "f4") - image.ravel()).max())
        assert np.abs(np.frombuffer(closest, "f4") - image.ravel()).max() < ATOL
        found.append(windows[closest])
    assert len(set(found)) > 5
    assert {flipped for *_, flipped in found} == {True, False}


def test_training_window_is_that_of_inception_crop():
    seed = (4, 2)
    seeds = preprocess.training_seeds(seed)
    window = preprocess.training_window((11, 17), seeds, "crop_flip").numpy()
    crop_seed = tf.random.split(seed, 6)[0]
    top, left, height, width = window
    np.testing.assert_array_equal(
        chance.inception_crop(IMAGE, crop_seed), IMAGE[top : top + height, left : left + width]
    )
    np.testing.assert_array_equal(
        preprocess.training_window((11, 17), seeds, "shift"), [0, 0, 11, 17]
    )


def test_augmentation_wrong_values_raise():
    with pytest.raises(ValueError, match="Received: 'crop_flp'; did you mean 'crop_flip'"):
        preprocess.get_augmentation("crop_flp")
    with pytest.raises(ValueError, match="`area_range` must rise"):
        InceptionCrop(area_range=(0.5, 0.1))
    with pytest.raises(ValueError, match="`aspect_ratio_range` must rise"):
        InceptionCrop(aspect_ratio_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="`max_fraction` must be"):
        Shift(1.0)
    with pytest.raises(ValueError, match="`max_degrees` must be .* Received: 200"):
        Rotation(200)
    with pytest.raises(ValueError, match="must be the first operation"):
        Augmentation((Flip(), InceptionCrop()))
    with pytest.raises(TypeError, match="write `Flip"):
        preprocess.get_augmentation(Flip)
    with pytest.raises(ValueError, match="must be one of .*Received: 'Flop'"):
        preprocess.get_augmentation([{"name": "Flop"}])
    with pytest.raises(ValueError, match=r"Shift has the fields \['max_fraction'\]"):
        preprocess.get_augmentation([{"name": "Shift", "most": 1}])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_comes_back_from_its_json(name):
    described = json.loads(json.dumps(AUGMENTATIONS[name].as_json()))
    assert preprocess.get_augmentation(described) == AUGMENTATIONS[name]


def test_training_image_of_a_tuple_of_operations_is_that_of_the_preset():
    rule = Rule(image_size=(8, 6))
    for seed in ((1, 2), (3, 4)):
        np.testing.assert_array_equal(
            preprocess.training_image(IMAGE, rule, seed, (InceptionCrop(), Flip())),
            preprocess.training_image(IMAGE, rule, seed, "crop_flip"),
        )


def darken(image, seed):
    return image * tf.random.stateless_uniform((), seed)


def test_training_image_applies_an_operation_of_the_users_with_a_seed_of_its_own():
    rule = Rule(image_size=(8, 6), value_range=(0, 255))
    augmentation = preprocess.get_augmentation((Flip(), darken, darken))
    assert augmentation.as_json()[1:] == 2 * [{"name": f"{__name__}.darken"}]
    plain = preprocess.training_image(IMAGE, rule, (1, 2), Flip()).numpy()
    factors = set()
    for several in ((Flip(), darken), (Flip(), darken, darken), (darken,)):
        image = preprocess.training_image(IMAGE, rule, (1, 2), several).numpy()
        if Flip() not in several:
            plain = preprocess.evaluation_image(IMAGE, rule).numpy()
        ratio = image[plain > 1] / plain[plain > 1]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        factors.add(round(float(ratio[0]), 4))
    # The first `darken` is the same without the flip; the second one has another factor.
    assert len(factors) == 2
    with pytest.raises(ValueError, match="must keep the image's shape"):
        preprocess.training_image(IMAGE, rule, (1, 2), lambda image, seed: image[:2])


def test_second_operation_of_a_kind_draws_again():
    seeds = preprocess.training_seeds((1, 2))
    first, second = operations.slot_seeds(seeds, (RandAugment(), RandAugment()))
    assert first.numpy().tolist() == seeds[5].numpy().tolist() != second.numpy().tolist()


@pytest.mark.parametrize(("given", "wanted"), [(1, 1), (3, 1), (1, 3), (10, 10)])
def test_images_have_the_channels_of_the_model(given, wanted):
    image = RNG.integers(0, 256, (8, 6, given), dtype=np.uint8)
    rule = Rule(image_size=(8, 6), value_range=(0, 255), channels=wanted)
    for name in ("none", "crop_flip"):
        assert preprocess.training_image(image, rule, (1, 2), name).shape == (8, 6, wanted)
    grey = np.repeat(image[..., :1], 3, axis=-1)
    if wanted == 10:
        expected = image.astype(np.float32)
        np.testing.assert_allclose(preprocess.evaluation_image(image, rule), expected, atol=ATOL)
    if wanted == 1:
        np.testing.assert_allclose(
            preprocess.evaluation_image(grey, rule), image[..., :1], atol=ATOL
        )


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="models of 1 or 3 channels"):
        preprocess.evaluation_image(IMAGE, Rule(image_size=(8, 6), channels=4))


def test_evaluation_image_refuses_a_thin_image_that_its_short_side_would_blow_up():
    rule = Rule(image_size=(224, 224), resize="short_side", resize_to=(256, 256))
    thin = tf.zeros((1, 60_000, 3), tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="side is 256, it is 1 x 60000"):
        preprocess.evaluation_image(thin, rule)
