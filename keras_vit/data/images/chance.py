"""Random steps of training's augmentation: pure functions of one image and a seed.

Legend: `H W` pixels, `C` channels.
"""

import math

import tensorflow as tf


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
