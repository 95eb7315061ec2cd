"""Pixels as a model wants them: pure functions of one image, and of a seed where there is chance.

Legend: `H W` pixels of the source image, `h w` pixels of the model's input, `C` channels.  Images
that go in are uint8; nothing is rounded back to uint8 on the way, as in the official pipeline.
"""

import dataclasses
import difflib
import math

import tensorflow as tf

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
    image = tf.image.resize(tf.cast(image, tf.float32), size, method=method, antialias=antialias)
    return tf.clip_by_value(image, 0.0, 255.0) if method == "bicubic" else image


def scale_pixels(image, value_range, mean=None, std=None):
    """Maps [0, 255] to `value_range` linearly; (-1, 1) gives the official (x - 127.5) / 127.5.

    Where `mean` and `std` are given, each channel is then brought to (x - mean) / std.

    >>> scale_pixels([0.0, 127.5, 255.0], (-1, 1)).numpy().tolist()
    [-1.0, 0.0, 1.0]
    """
    low, high = value_range
    unit = (tf.cast(image, tf.float32) - 127.5) / 127.5  # [-1, 1]
    scaled = unit * ((high - low) / 2) + (high + low) / 2
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
        # big_vision's `resize_small`.
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.cast(tf.round(shape * (resize_to[0] / tf.reduce_min(shape))), tf.int32)
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


def inception_crop(image, seed, area_range=(0.05, 1.0), aspect_ratio_range=(0.75, 1.33)):
    """Cuts a random window; the defaults are the official ones (arXiv:1409.4842, section 6).

    Args:
        image: (H, W, C).
        seed: int (2,), the only source of randomness.
        area_range: the least and the greatest share of the image's area.
        aspect_ratio_range: the least and the greatest width / height.

    Returns:
        (H', W', C) of the same dtype; the whole image where no such window is found.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((0, 0, 4), tf.float32),
        seed=seed,
        min_object_covered=0.0,
        area_range=area_range,
        aspect_ratio_range=aspect_ratio_range,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.slice(image, begin, size)
    return tf.ensure_shape(crop, (None, None, image.shape[-1]))


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to an image beyond evaluation's preprocessing.

    Args:
        area_range: the least and the greatest share of the area of an `inception_crop`, which is
            squashed to the input size; None keeps the evaluation's resizing.
        aspect_ratio_range: the least and the greatest width / height of that crop.
        flip: whether `random_flip` is applied.
        max_shift: `max_fraction` of a `random_shift` after resizing.
        max_rotation: `max_degrees` of a `random_rotation` after resizing.

    Raises:
        ValueError: for ranges that do not rise or leave their bounds.
    """

    area_range: tuple[float, float] | None = None
    aspect_ratio_range: tuple[float, float] = (0.75, 1.33)
    flip: bool = False
    max_shift: float = 0.0
    max_rotation: float = 0.0

    def __post_init__(self):
        if self.area_range is not None and not 0 < self.area_range[0] <= self.area_range[1] <= 1:
            raise ValueError(f"`area_range` must rise within (0, 1]. Received: {self.area_range}")
        if not 0 < self.aspect_ratio_range[0] <= self.aspect_ratio_range[1]:
            raise ValueError(
                f"`aspect_ratio_range` must rise above 0. Received: {self.aspect_ratio_range}"
            )
        if not 0 <= self.max_shift < 1:
            raise ValueError(f"`max_shift` must be in [0, 1). Received: {self.max_shift}")
        if not 0 <= self.max_rotation <= 180:
            raise ValueError(f"`max_rotation` must be in [0, 180]. Received: {self.max_rotation}")


AUGMENTATIONS = {
    "none": Augmentation(),
    # For writing, where a mirror image is another sign.
    "shift": Augmentation(max_shift=0.125),
    "handwriting": Augmentation(
        area_range=(0.85, 1.0), aspect_ratio_range=(0.9, 1.1), max_shift=0.07, max_rotation=8.0
    ),
    "crop": Augmentation(area_range=(0.7, 1.0), aspect_ratio_range=(0.85, 1.18), max_shift=0.1),
    # The official fine-tuning (vit_jax/input_pipeline.py).
    "crop_flip": Augmentation(area_range=(0.05, 1.0), flip=True),
}


def get_augmentation(augmentation):
    """Returns the `Augmentation` of that name, or the one that is passed.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if augmentation not in AUGMENTATIONS:
        close = difflib.get_close_matches(str(augmentation), AUGMENTATIONS)
        raise ValueError(
            f"`augmentation` must be an `Augmentation` or one of {sorted(AUGMENTATIONS)}. "
            f"Received: {augmentation!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return AUGMENTATIONS[augmentation]


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
    augmentation = get_augmentation(augmentation)
    crop_seed, flip_seed, shift_seed, turn_seed = tf.unstack(tf.random.split(seed, 4), num=4)
    image = _checked(image)
    if augmentation.area_range is None:
        image = _resize_by_rule(image, preprocessing)
    else:
        image = inception_crop(
            image, crop_seed, augmentation.area_range, augmentation.aspect_ratio_range
        )
        image = resize(image, tuple(preprocessing.image_size), preprocessing.interpolation)
    if augmentation.flip:
        image = random_flip(image, flip_seed)
    if augmentation.max_shift:
        image = random_shift(image, shift_seed, augmentation.max_shift)
    if augmentation.max_rotation:
        image = random_rotation(image, turn_seed, augmentation.max_rotation)
    return _scaled(image, preprocessing)
