"""Pixels as a model wants them: pure functions of one image, and of a seed where there is chance.

Legend: `H W` pixels of the source image, `h w` pixels of the model's input, `C` channels.  Images
that go in are uint8; nothing is rounded back to uint8 on the way, as in the official pipeline.
"""

import tensorflow as tf

from keras_vit.data.images.augmentation_presets import get_augmentation
from keras_vit.data.images.chance import cut
from keras_vit.data.images.channels import with_channels
from keras_vit.data.images.image_problems import MAX_PIXELS
from keras_vit.data.images.operations import NUM_SEEDS, slot_seeds
from keras_vit.data.images.resize import (
    central_crop,
    resize,
    scale_pixels,
    short_side_size,
    to_rgb,
)


def to_model(image, preprocessing):
    """Pixels in [0, 255] -> the channels and values that a model takes."""
    rule = preprocessing
    if image.shape[-1] != rule.channels:
        image = with_channels(image, rule.channels)
    return scale_pixels(image, rule.value_range, rule.mean, rule.std)


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


def as_bands(image, preprocessing):
    """RGB, or as many bands as the model takes."""
    channels = preprocessing.channels
    if channels != 1 and image.shape.rank == 3 and image.shape[-1] == channels:
        return image
    return to_rgb(image)


def _checked(image, preprocessing):
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8:
        raise TypeError(
            f"An image must be uint8 in [0, 255]. Received: {image.dtype.name}; pass the pixels as "
            "they were decoded."
        )
    return as_bands(image, preprocessing)


def _resize_by_rule(image, preprocessing):
    """(H, W, C) -> float32 (h, w, C) in [0, 255] by the rule of `preprocessing`."""
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
    return tf.ensure_shape(image, (*image_size, image.shape[-1]))


def evaluation_image(image, preprocessing):
    """Returns the model's input for one image, as in evaluation and serving.

    Args:
        image: uint8 (H, W, C) in [0, 255], of 1 or 3 channels for a model of 1 or 3, or of as many
            as the model's.
        preprocessing: `keras_vit.models.preprocessing.Preprocessing`.

    Returns:
        float32 (h, w, C) in `value_range`, C the model's channels.

    Raises:
        TypeError: for pixels that are not uint8.
        ValueError: for another number of channels, or an unknown rule.
    """
    image = _resize_by_rule(_checked(image, preprocessing), preprocessing)
    return to_model(image, preprocessing)


def float_image(image, preprocessing):
    """As `evaluation_image`, for pixels that are floats in [0, 255] already."""
    image = as_bands(tf.cast(image, tf.float32), preprocessing)
    return to_model(_resize_by_rule(image, preprocessing), preprocessing)


def training_seeds(seed):
    """int (6, 2): what each random step of `training_image` takes from its seed, int (2,)."""
    return tf.random.split(seed, NUM_SEEDS)


def training_window(size, seeds, augmentation):
    """Which part of the source image is used in training.

    Args:
        size: int32 (2,), its height and width.
        seeds: int (6, 2), the `training_seeds` of the `training_image` whose window this is.
        augmentation: what `get_augmentation` takes.

    Returns:
        int32 (4,), top, left, height and width; all of it, where the augmentation does not begin
        with a crop of the source image.
    """
    augmentation = get_augmentation(augmentation)
    if not augmentation.cuts_source:
        return tf.concat([[0, 0], size], axis=0)
    return augmentation.crop.window(size, slot_seeds(seeds, augmentation.operations)[0])


def training_image(image, preprocessing, seed, augmentation):
    """Returns the model's input for one image, as in training.

    Args:
        image: uint8 (H, W, C) in [0, 255].
        preprocessing: as in `evaluation_image`.
        seed: int (2,), the only source of randomness.
        augmentation: what `get_augmentation` takes.

    Returns:
        float32 (h, w, C) in `value_range`.

    Raises:
        TypeError: for pixels that are not uint8.
        ValueError: for another number of channels, an unknown rule or augmentation.
    """
    image = _checked(image, preprocessing)
    seeds = training_seeds(seed)
    window = training_window(tf.shape(image)[:2], seeds, augmentation)
    return training_image_from_window(cut(image, window), preprocessing, seeds, augmentation)


def _same_shape(operation, image, shape):
    image = tf.convert_to_tensor(image)
    if not image.shape.is_compatible_with(shape):
        raise ValueError(
            f"An operation must keep the image's shape {shape}. Received: {image.shape} from "
            f"{operation}"
        )
    return tf.ensure_shape(image, shape)


def training_image_from_window(image, preprocessing, seeds, augmentation):
    """The part of `training_image` that follows the cut, for images that were decoded through it.

    Args:
        image: uint8 (H', W', C), what lies in the `training_window` of the same seeds.
        preprocessing: as in `evaluation_image`.
        seeds: int (6, 2), `training_seeds`.
        augmentation: what `get_augmentation` takes.

    Returns:
        float32 (h, w, C) in `value_range`.

    Raises:
        TypeError, ValueError: as `training_image`.
    """
    augmentation = get_augmentation(augmentation)
    image = _checked(image, preprocessing)
    size = tuple(preprocessing.image_size)
    operations = augmentation.operations
    pairs = list(zip(operations, slot_seeds(seeds, operations), strict=True))
    if augmentation.crop is None:
        image = _resize_by_rule(image, preprocessing)
    else:
        crop, seed = pairs.pop(0)
        image = crop.resize(image, seed, size, preprocessing.interpolation)
    shape = image.shape
    for operation, seed in pairs:
        if not getattr(operation, "mixes", False):
            image = _same_shape(operation, operation(image, seed), shape)
    return to_model(image, preprocessing)
