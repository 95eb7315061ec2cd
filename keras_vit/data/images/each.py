"""A function of one image, over a batch, to the bits that it gives alone."""

import tensorflow as tf

from keras_vit.data.images.preprocess import float_image


def for_each(function, batch):
    """Stacks a function's results for the elements of a batch of at least one.

    tf.data, because its graphs are not rewritten: elsewhere a division becomes a product with the
    reciprocal, and the pixels differ from those of evaluation in the last bit.

    Args:
        function: From one element to a tensor or a tuple of them.
        batch: Tensor whose first axis is that of the elements.

    Returns:
        What the function returns, with an axis before.
    """
    results = tf.data.Dataset.from_tensor_slices(batch).map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return results.batch(tf.shape(batch, tf.int64)[0]).get_single_element()


def evaluation_batch(images, preprocessing):
    """The model's input for a batch of pixels, as in evaluation.

    Args:
        images: float32 (B, H, W, C) in [0, 255].
        preprocessing: The model's `Preprocessing`.

    Returns:
        float32 (B, h, w, C) in `value_range`.
    """

    def prepare(image):
        return float_image(image, preprocessing)

    size = (None, *preprocessing.image_size, preprocessing.channels)
    return tf.ensure_shape(for_each(prepare, images), size)
