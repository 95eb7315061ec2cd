"""Layers of Keras with what they lack here: a configuration, a value, what the images are.

Shapes: B batch, H W pixels, C channels.
"""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_vit")
class Identity(keras.layers.Identity):
    """`keras.layers.Identity` that can be saved with a dtype policy."""

    def get_config(self):
        # Without it, Keras cannot serialize a layer that was given a dtype policy.
        return super().get_config()


@keras.saving.register_keras_serializable(package="keras_vit")
class ImageInput(keras.layers.InputLayer):
    """An input layer that says what images it wants.

    A model that is cut from another shares its input layer, and so knows this too, also once it
    was saved and loaded.

    Args:
        preprocessing: The fields of a `keras_vit.Preprocessing`, a dict of plain values, or None.
        **kwargs: Arguments of `keras.layers.InputLayer`.
    """

    def __init__(self, preprocessing=None, **kwargs):
        super().__init__(**kwargs)
        self.set_preprocessing(preprocessing)

    @property
    def preprocessing(self):
        """The fields of a `keras_vit.Preprocessing`, a new dict, or None."""
        return None if self._preprocessing is None else dict(self._preprocessing)

    def set_preprocessing(self, preprocessing):
        """Changes what images are wanted."""
        # Keras would track a dict as something that training changes.
        self._preprocessing = None if preprocessing is None else tuple(preprocessing.items())

    def get_config(self):
        return {**super().get_config(), "preprocessing": self.preprocessing}


@keras.saving.register_keras_serializable(package="keras_vit")
class InfinitePadding2D(keras.layers.Layer):
    """Surrounds images with minus infinity, so that a maximum ignores the border.

    Args:
        padding: Number of rows and columns that are added on each side, in pixels.

    Call arguments:
        images: (B, H, W, C) floats.

    Returns:
        (B, H + 2 padding, W + 2 padding, C).
    """

    def __init__(self, padding, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, images):
        sides = (self.padding, self.padding)
        return ops.pad(images, ((0, 0), sides, sides, (0, 0)), constant_values=-math.inf)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side + 2 * self.padding for side in sides), channels)

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}
