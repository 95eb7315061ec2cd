"""Encoded images -> the model's input, or the reason why not; the same in exports and predictions.

Legend: `h w` pixels of the model's input.
"""

import tensorflow as tf

from keras_vit.data.images.decode import MAX_BYTES, MAX_PIXELS, try_decode_image
from keras_vit.data.images.preprocess import evaluation_image, resize_problem


def try_prepare_image(encoded, preprocessing, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES):
    """Decodes and preprocesses an image as evaluation does, and says so where it cannot be done.

    Args:
        encoded: scalar string tensor, any bytes.
        preprocessing: the model's `Preprocessing`.
        max_pixels: the largest height x width that is decoded, see `decode.try_decode_image`.
        max_bytes: the largest length that is decoded.

    Returns:
        `(tensor, problem)`: float32 (h, w, 3), and a scalar string tensor that is empty where the
        image is good; where it is not, it says why and the tensor is that of a black pixel.
    """
    image, problem = try_size_image(encoded, preprocessing, max_pixels, max_bytes)
    return evaluation_image(image, preprocessing), problem


def try_size_image(encoded, preprocessing, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES):
    """As `try_prepare_image`, but the image is as it was decoded, uint8 (H, W, 3)."""
    image, problem = try_decode_image(
        encoded,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
        orientation=preprocessing.orientation,
    )
    shape = tf.shape(image, tf.int64)
    too_thin = resize_problem(shape[0], shape[1], preprocessing, min(max_pixels, MAX_PIXELS))
    problem = tf.where(tf.equal(problem, ""), too_thin, problem)
    image = tf.cond(tf.equal(problem, ""), lambda: image, lambda: tf.zeros_like(image[:1, :1]))
    return tf.ensure_shape(image, (None, None, 3)), problem
