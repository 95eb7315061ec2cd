"""Sizes, channels and values of pixels: pure functions of one image.

Legend: `H W` pixels of the source image, `C` channels.
"""

import tensorflow as tf

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
            "drop channels first, or load the model with `in_channels=`."
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
