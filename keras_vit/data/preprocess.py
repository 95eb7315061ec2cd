"""Pixels as a model wants them: pure functions of one image, and of a seed where there is chance.

Legend: `H W` pixels of the source image, `h w` pixels of the model's input, `C` channels.  Images
that go in are uint8; nothing is rounded back to uint8 on the way, as in the official pipeline.
"""

import math

import tensorflow as tf

from keras_vit.data import augment
from keras_vit.data.augmentations import AUGMENTATIONS as AUGMENTATIONS
from keras_vit.data.augmentations import Augmentation as Augmentation
from keras_vit.data.augmentations import get_augmentation
from keras_vit.data.image_problems import MAX_PIXELS

# What chance decides: the window, flip, shift, rotation, random crop, RandAugment.
_NUM_SEEDS = 6
_MAX_FLOATS = 2**20  # measured: from there on the cast costs more than it saves
RESIZE_METHODS = ("bilinear", "area", "bicubic")


def to_rgb(image):
    """Repeats the channel of a grey image.

    Args:
        image: (H, W, 1) or (H, W, 3), the channels known statically.

    Returns:
        (H, W, 3) of the same dtype.

    Raises:
        ValueError: for another shape.
    """
    image = tf.convert_to_tensor(image)
    if image.shape.rank != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"An image must have the shape (H, W, 1) or (H, W, 3). Received: {image.shape}; add or "
            "drop channels first."
        )
    return image if image.shape[-1] == 3 else tf.repeat(image, 3, axis=-1)


def resize(image, size, method="bilinear", antialias=False):
    """Resizes with half-pixel centres, in float.

    Args:
        image: (H, W, C), values in [0, 255].
        size: (height, width) in pixels, integers or scalar tensors.
        method: one of `RESIZE_METHODS`.
        antialias: whether to smooth what is made smaller; never so in the official pipelines.

    Returns:
        float32 (height, width, C) in [0, 255]; what bicubic overshoots is clipped.

    Raises:
        ValueError: for an unknown method.
    """
    if method not in RESIZE_METHODS:
        raise ValueError(f"`method` must be one of {RESIZE_METHODS}. Received: {method!r}")
    image = tf.convert_to_tensor(image)

    def resized(pixels):
        return tf.image.resize(pixels, size, method=method, antialias=antialias)

    def from_float():
        return resized(tf.cast(image, tf.float32))

    if method != "bilinear" or antialias or image.dtype != tf.uint8:
        image = from_float()
        return tf.clip_by_value(image, 0.0, 255.0) if method == "bicubic" else image
    # To the same numbers: the operation is faster with floats, but a large image is not worth it.
    return tf.cond(tf.size(image) <= _MAX_FLOATS, from_float, lambda: resized(image))


def scale_pixels(image, value_range, mean=None, std=None):
    """Maps [0, 255] to `value_range` linearly; (-1, 1) gives the official (x - 127.5) / 127.5.

    Where `mean` and `std` are given, each channel is then brought to (x - mean) / std.

    >>> scale_pixels([0.0, 127.5, 255.0], (-1, 1)).numpy().tolist()
    [-1.0, 0.0, 1.0]
    """
    low, high = value_range
    scaled = (tf.cast(image, tf.float32) - 127.5) / 127.5
    if tuple(value_range) != (-1, 1):
        scaled = scaled * ((high - low) / 2) + (high + low) / 2
    return scaled if mean is None else (scaled - mean) / std


def _scaled(image, preprocessing):
    rule = preprocessing
    return scale_pixels(image, rule.value_range, rule.mean, rule.std)


def central_crop(image, size):
    """Cuts (height, width) pixels from the middle; the odd pixel stays below and to the right.

    Args:
        image: (H, W, C).
        size: (height, width) in pixels, at most (H, W).

    Returns:
        (height, width, C) of the same dtype.

    Raises:
        tf.errors.InvalidArgumentError or ValueError: for an image smaller than `size`.
    """
    height, width = size
    top = (tf.shape(image)[0] - height) // 2
    left = (tf.shape(image)[1] - width) // 2
    return tf.image.crop_to_bounding_box(image, top, left, height, width)


def short_side_size(size, short_side):
    """int32 (2,), the size whose short side is `short_side`, as in big_vision's `resize_small`."""
    size = tf.cast(size, tf.float32)
    return tf.cast(tf.round(size * (short_side / tf.reduce_min(size))), tf.int32)


def resize_problem(height, width, preprocessing, max_pixels=MAX_PIXELS):
    """Says why an image of this size must not be resized; a thin one by its short side explodes.

    Args:
        height: int64 scalar tensor, in pixels.
        width: int64 scalar tensor, in pixels.
        preprocessing: the model's `Preprocessing`.
        max_pixels: the largest height x width, before and after.

    Returns:
        Scalar string tensor, empty where nothing is wrong.
    """
    if preprocessing.resize != "short_side":
        return tf.constant("")
    side = (preprocessing.resize_to or preprocessing.image_size)[0]
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    fits = long * side * side <= max_pixels * tf.maximum(short, 1)
    message = tf.strings.join(
        [
            f"an image may have at most {max_pixels} pixels once its short side is {side}, it is ",
            *(tf.strings.as_string(height), " x ", tf.strings.as_string(width)),
        ]
    )
    return tf.where(fits, "", message)


def _checked(image):
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8:
        raise TypeError(
            f"An image must be uint8 in [0, 255]. Received: {image.dtype.name}; pass the pixels as "
            "they were decoded."
        )
    return to_rgb(image)


def _resize_by_rule(image, preprocessing):
    """(H, W, 3) -> float32 (h, w, 3) in [0, 255] by the rule of `preprocessing`."""
    image_size = tuple(preprocessing.image_size)
    resize_to = tuple(preprocessing.resize_to or image_size)
    if preprocessing.resize == "squash":
        size = resize_to
    elif preprocessing.resize == "short_side":
        height, width = tf.unstack(tf.shape(image, tf.int64)[:2], num=2)
        problem = resize_problem(height, width, preprocessing)
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
            size = short_side_size(tf.shape(image)[:2], resize_to[0])
    else:
        raise ValueError(
            f"`resize` must be 'squash' or 'short_side'. Received: {preprocessing.resize!r}"
        )
    image = resize(image, size, preprocessing.interpolation, preprocessing.antialias)
    if preprocessing.resize == "short_side" or size != image_size:
        image = central_crop(image, image_size)
    return tf.ensure_shape(image, (*image_size, 3))


def evaluation_image(image, preprocessing):
    """Returns the model's input for one image, as in evaluation and serving.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3) in [0, 255].
        preprocessing: has `image_size`, `value_range`, `mean`, `std`, `resize`, `resize_to`,
            `interpolation` and `antialias`, which
            `keras_vit.models.preprocessing.Preprocessing` describes.

    Returns:
        float32 (h, w, 3) in `value_range`.

    Raises:
        TypeError: for pixels that are not uint8.
        ValueError: for another number of channels, or an unknown rule.
    """
    image = _resize_by_rule(_checked(image), preprocessing)
    return _scaled(image, preprocessing)


def inception_window(size, seed, area_range=(0.05, 1.0), aspect_ratio_range=(0.75, 1.33)):
    """Draws a window of an image; the defaults are the official ones (arXiv:1409.4842, section 6).

    Args:
        size: int32 (2,), the image's height and width.
        seed: int (2,), the only source of randomness.
        area_range: the least and the greatest share of the image's area.
        aspect_ratio_range: the least and the greatest width / height.

    Returns:
        int32 (4,), top, left, height and width; the whole image where no such window is found.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [3]], axis=0),
        tf.zeros((0, 0, 4), tf.float32),
        seed=seed,
        min_object_covered=0.0,
        area_range=area_range,
        aspect_ratio_range=aspect_ratio_range,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def cut(image, window):
    """(H, W, C) and int32 (4,), top, left, height and width -> (height, width, C)."""
    top, left, height, width = tf.unstack(window, num=4)
    image = image[top : top + height, left : left + width]
    return tf.ensure_shape(image, (None, None, image.shape[-1]))


def inception_crop(image, seed, area_range=(0.05, 1.0), aspect_ratio_range=(0.75, 1.33)):
    """Cuts an `inception_window`.

    Args:
        image: (H, W, C).
        seed: int (2,), the only source of randomness.
        area_range: the least and the greatest share of the image's area.
        aspect_ratio_range: the least and the greatest width / height.

    Returns:
        (H', W', C) of the same dtype.
    """
    window = inception_window(tf.shape(image)[:2], seed, area_range, aspect_ratio_range)
    return cut(image, window)


def random_crop(image, seed, size):
    """Cuts (height, width) pixels from anywhere; `seed` is int (2,).

    Raises:
        tf.errors.InvalidArgumentError or ValueError: for an image smaller than `size`.
    """
    return tf.image.stateless_random_crop(image, (*size, image.shape[-1]), seed)


def random_flip(image, seed):
    """Mirrors left and right with probability one half; `seed` is int (2,)."""
    return tf.image.stateless_random_flip_left_right(image, seed)


def random_shift(image, seed, max_fraction):
    """Moves an image by whole pixels, each axis on its own; the border repeats the edge.

    Args:
        image: (H, W, C).
        seed: int (2,), the only source of randomness.
        max_fraction: the largest move, as a share of the height and of the width.

    Returns:
        (H, W, C) of the same dtype.
    """
    for axis, axis_seed in enumerate(tf.unstack(tf.random.split(seed, 2), num=2)):
        size = tf.shape(image)[axis]
        most = tf.cast(tf.cast(size, tf.float32) * max_fraction, tf.int32)
        offset = tf.random.stateless_uniform((), axis_seed, -most, most + 1, tf.int32)
        positions = tf.clip_by_value(tf.range(size) + offset, 0, size - 1)
        image = tf.ensure_shape(tf.gather(image, positions, axis=axis), image.shape)
    return image


def random_rotation(image, seed, max_degrees):
    """Turns an image about its centre, bilinearly; what comes from outside repeats the edge.

    Args:
        image: float (H, W, C).
        seed: int (2,), the only source of randomness.
        max_degrees: the largest angle in either direction.

    Returns:
        (H, W, C) of the same dtype.
    """
    radians = max_degrees * math.pi / 180
    angle = tf.random.stateless_uniform((), seed, -radians, radians)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2, num=2)
    # Rows of the matrix that takes a pixel (x, y, 1) to where it comes from.
    transform = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, 0.0, 0.0]
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack(transform)[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.ensure_shape(turned[0], image.shape)


def training_seeds(seed):
    """int (6, 2): what each random step of `training_image` takes from its seed, int (2,)."""
    return tf.random.split(seed, _NUM_SEEDS)


def training_window(size, seeds, augmentation):
    """Which part of the source image is used in training.

    Args:
        size: int32 (2,), its height and width.
        seeds: int (6, 2), the `training_seeds` of the `training_image` whose window this is.
        augmentation: an `Augmentation` or a name in `AUGMENTATIONS`.

    Returns:
        int32 (4,), top, left, height and width; all of it, where the augmentation has no
        `area_range`.
    """
    augmentation = get_augmentation(augmentation)
    if augmentation.area_range is None:
        return tf.concat([[0, 0], size], axis=0)
    ranges = augmentation.area_range, augmentation.aspect_ratio_range
    return inception_window(size, seeds[0], *ranges)


def _resize_in_training(image, preprocessing, seed, augmentation):
    """(H', W', 3), the window -> float32 (h, w, 3) in [0, 255]."""
    size = tuple(preprocessing.image_size)
    method = augmentation.interpolation or preprocessing.interpolation
    if augmentation.area_range is not None:
        return resize(image, size, method)
    if augmentation.crop_scale is None:
        return _resize_by_rule(image, preprocessing)
    target = tuple(round(side * augmentation.crop_scale) for side in size)
    if augmentation.crop_rule == "short_side":
        target = short_side_size(tf.shape(image)[:2], max(target))
    return random_crop(resize(image, target, method), seed, size)


def training_image(image, preprocessing, seed, augmentation):
    """Returns the model's input for one image, as in training.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3) in [0, 255].
        preprocessing: as in `evaluation_image`.
        seed: int (2,), the only source of randomness.
        augmentation: an `Augmentation` or a name in `AUGMENTATIONS`.

    Returns:
        float32 (h, w, 3) in `value_range`.

    Raises:
        TypeError: for pixels that are not uint8.
        ValueError: for another number of channels, an unknown rule or augmentation.
    """
    image = _checked(image)
    seeds = training_seeds(seed)
    window = training_window(tf.shape(image)[:2], seeds, augmentation)
    return training_image_from_window(cut(image, window), preprocessing, seeds, augmentation)


def training_image_from_window(image, preprocessing, seeds, augmentation):
    """The part of `training_image` that follows the cut, for images that were decoded through it.

    Args:
        image: uint8 (H', W', 3), what lies in the `training_window` of the same seeds.
        preprocessing: as in `evaluation_image`.
        seeds: int (6, 2), `training_seeds`.
        augmentation: an `Augmentation` or a name in `AUGMENTATIONS`.

    Returns:
        float32 (h, w, 3) in `value_range`.

    Raises:
        TypeError, ValueError: as `training_image`.
    """
    augmentation = get_augmentation(augmentation)
    seeds = tf.unstack(seeds, num=_NUM_SEEDS)  # of which the first is the window's
    image = _resize_in_training(_checked(image), preprocessing, seeds[4], augmentation)
    if augmentation.truncate:
        image = tf.floor(image)
    if augmentation.flip:
        image = random_flip(image, seeds[1])
    if augmentation.max_shift:
        image = random_shift(image, seeds[2], augmentation.max_shift)
    if augmentation.max_rotation:
        image = random_rotation(image, seeds[3], augmentation.max_rotation)
    if augmentation.randaugment_layers:
        image = augment.rand_augment(
            tf.floor(image),
            seeds[5],
            augmentation.randaugment_layers,
            augmentation.randaugment_magnitude,
        )
    return _scaled(image, preprocessing)
