"""Training's random steps for an image and its mask together: pure functions of a seed.

The order is Segmenter's (arXiv:2105.05633, section 4.1): scale, crop with padding, mirror.  The
image is resized bilinearly, the mask takes the nearest pixel; what is padded is 0 to the model and
ignored in the mask.

Shapes: `H W` pixels of the image, `h w` of the model's input, `C` channels.
"""

import tensorflow as tf

from keras_vit.data.images.preprocess import as_bands, to_model
from keras_vit.data.images.resize import resize
from keras_vit.data.images.windows import IGNORE, scaled_size

SCALES = (0.5, 2.0)
MIRROR = True


def nearest(mask, size):
    """The mask at another size, by the nearest pixel (half-pixel centres): (H, W) -> (h, w)."""
    return tf.image.resize(mask[..., tf.newaxis], size, "nearest")[..., 0]


def pad_to(image, mask, size):
    """Pads at the right and at the bottom, where a side is shorter.

    Args:
        image: float32 (H, W, C) as the model takes it; it is padded with zeros.
        mask: uint8 (H, W); it is padded with `IGNORE`.
        size: (h, w).

    Returns:
        `(image, mask)`, each side the longer of both.
    """
    missing = tf.maximum(tf.constant(size) - tf.shape(mask), 0)
    sides = [[0, missing[0]], [0, missing[1]]]
    return tf.pad(image, [*sides, [0, 0]]), tf.pad(mask, sides, constant_values=IGNORE)


def crop(image, mask, top_left, size):
    """Cuts the same window out of both; `top_left` is int32 (2,)."""
    (top, left), (height, width) = tf.unstack(top_left, num=2), size
    image = image[top : top + height, left : left + width]
    mask = mask[top : top + height, left : left + width]
    return tf.ensure_shape(image, (*size, image.shape[-1])), tf.ensure_shape(mask, size)


def training_pair(image, mask, preprocessing, seed, scales=SCALES, mirror=MIRROR):
    """An image and its mask as the model is trained on them.

    Args:
        image: uint8 (H, W, C) in [0, 255].
        mask: uint8 (H, W), a class or `IGNORE` for each pixel.
        preprocessing: `keras_vit.Preprocessing` of the model; its rule says at which size a scale
            is 1.
        seed: int (2,), the only source of randomness.
        scales: The least and the greatest scale, drawn uniformly.
        mirror: Whether left and right are swapped with probability one half.

    Returns:
        `(image, mask)`: float32 (h, w, C) in the model's value range, and uint8 (h, w).
    """
    scale_seed, crop_seed, mirror_seed = (tf.random.fold_in(seed, k) for k in range(3))
    window = tuple(preprocessing.image_size)
    scale = tf.random.stateless_uniform((), scale_seed, *scales)
    base = scaled_size(tf.shape(mask), preprocessing)
    size = tf.cast(tf.round(tf.cast(base, tf.float32) * scale), tf.int32)
    size = tf.maximum(size, 1)
    image = resize(
        as_bands(image, preprocessing), size, preprocessing.interpolation, preprocessing.antialias
    )
    image, mask = to_model(image, preprocessing), nearest(mask, size)
    image, mask = pad_to(image, mask, window)
    room = tf.shape(mask) - tf.constant(window) + 1
    share = tf.random.stateless_uniform((2,), crop_seed)
    top_left = tf.minimum(tf.cast(share * tf.cast(room, tf.float32), tf.int32), room - 1)
    image, mask = crop(image, mask, top_left, window)
    if mirror:
        is_mirrored = tf.random.stateless_uniform((), mirror_seed) < 0.5
        image = tf.where(is_mirrored, image[:, ::-1], image)
        mask = tf.where(is_mirrored, mask[:, ::-1], mask)
    return image, mask
