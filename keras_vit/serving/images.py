"""Encoded images -> the model's input, or the reason why not; the same in exports and predictions.

Legend: `h w` pixels of the model's input.
"""

import tensorflow as tf

from keras_vit.data.decode import MAX_PIXELS, try_decode_image
from keras_vit.data.preprocess import evaluation_image


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


def try_prepare_image(encoded, preprocessing, max_pixels=MAX_PIXELS):
    """Decodes and preprocesses an image as evaluation does, and says so where it cannot be done.

    Args:
        encoded: scalar string tensor, any bytes.
        preprocessing: the model's `Preprocessing`.
        max_pixels: the largest height x width that is decoded.

    Returns:
        `(tensor, problem)`: float32 (h, w, 3), and a scalar string tensor that is empty where the
        image is good; where it is not, it says why and the tensor is that of a black pixel.
    """
    image, problem = try_decode_image(encoded, max_pixels=max_pixels)
    shape = tf.shape(image, tf.int64)
    too_thin = resize_problem(shape[0], shape[1], preprocessing, max_pixels)
    problem = tf.where(tf.equal(problem, ""), too_thin, problem)
    image = tf.cond(tf.equal(problem, ""), lambda: image, lambda: tf.zeros_like(image[:1, :1]))
    return evaluation_image(tf.ensure_shape(image, (None, None, 3)), preprocessing), problem
