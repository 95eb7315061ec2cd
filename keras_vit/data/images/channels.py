"""Colours as a model's channels.  Shapes: H W pixels, C channels."""

import tensorflow as tf

# Shares of red, green and blue in grey (ITU-R BT.601, as Pillow's), which sum to 1.
_GREY = (0.299, 0.587, 0.114)


def with_channels(image, channels):
    """An RGB image for a model of three channels, or as grey for a model of one.

    Args:
        image: (H, W, 3).
        channels: Of the model.

    Returns:
        The image, or float32 (H, W, 1).

    Raises:
        ValueError: For a model of another number of channels.
    """
    if channels == 1:
        return tf.reduce_sum(tf.cast(image, tf.float32) * _GREY, axis=-1, keepdims=True)
    if channels != 3:
        raise ValueError(
            "images are made for models of 1 or 3 channels. Received: a model of "
            f"{channels} channels; give it arrays of your own"
        )
    return image
