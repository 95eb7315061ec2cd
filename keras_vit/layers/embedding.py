"""From pixels to tokens: patches, the class token, positions (Eq. 1 of arXiv:2010.11929v2).

Shapes: B batch, H W pixels, C channels, P Q patch height and width, h w grid, N = h w patches,
T tokens, D hidden.
"""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import initializers


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchEmbedding(keras.layers.Layer):
    """Cuts images into patches and projects each to D features.

    The same numbers as a convolution with kernel and stride (P, Q) and no padding (rows and columns
    that do not fill a patch are left out), computed as one matrix product.

    Args:
        hidden_size: D.
        patch_size: (P, Q) in pixels.

    Call arguments:
        images: (B, H, W, C) floats.

    Returns:
        (B, h, w, D) with h = H // P and w = W // Q.
    """

    def __init__(self, hidden_size, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.patch_size = tuple(patch_size)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.patch_size, input_shape[-1], self.hidden_size),
            initializer=initializers.lecun_normal(),
        )
        self.bias = self.add_weight(name="bias", shape=(self.hidden_size,), initializer="zeros")

    def call(self, images):
        rows, columns = self.patch_size
        height, width = self.compute_output_shape(images.shape)[1:3]
        channels = images.shape[-1]
        patches = images[:, : height * rows, : width * columns]
        patches = ops.reshape(patches, (-1, height, rows, width, columns, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))  # (B, h, w, P, Q, C)
        patches = ops.reshape(patches, (-1, height, width, rows * columns * channels))
        kernel = ops.reshape(self.kernel, (rows * columns * channels, self.hidden_size))
        return ops.matmul(patches, kernel) + self.bias  # (B, h, w, D)

    def compute_output_shape(self, input_shape):
        batch, height, width = input_shape[:3]
        rows, columns = self.patch_size
        return (batch, height // rows, width // columns, self.hidden_size)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "patch_size": self.patch_size,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class ClassToken(keras.layers.Layer):
    """Puts one learned token, zero at first, before the others: (B, N, D) -> (B, N + 1, D)."""

    def build(self, input_shape):
        self.token = self.add_weight(
            name="token", shape=(1, 1, input_shape[-1]), initializer="zeros"
        )

    def call(self, tokens):
        shape = (ops.shape(tokens)[0], 1, tokens.shape[-1])
        first = ops.broadcast_to(ops.cast(self.token, tokens.dtype), shape)
        return ops.concatenate([first, tokens], axis=1)

    def compute_output_shape(self, input_shape):
        batch, tokens, features = input_shape
        return (batch, tokens + 1, features)


@keras.saving.register_keras_serializable(package="keras_vit")
class LearnedPositionEmbedding(keras.layers.Layer):
    """Adds one learned vector to each token, N(0, 0.02) at first: (B, T, D) -> (B, T, D)."""

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding", shape=(1, *input_shape[1:]), initializer=initializers.normal(0.02)
        )

    def call(self, tokens):
        return tokens + self.embedding

    def compute_output_shape(self, input_shape):
        return input_shape


def sincos_positions(grid, hidden_size):
    """2-D sine-cosine positions in the order of MoCo v3 and big_vision.

    With w_k = 10000^(-k / (D/4 - 1)) for k = 0 ... D/4 - 1, the position in row y and column x is
    [sin(x w), cos(x w), sin(y w), cos(y w)].

    Args:
        grid: (h, w) in patches.
        hidden_size: D, a multiple of 4 and at least 8.

    Returns:
        (h w, D) float32 array, rows in reading order.

    Raises:
        ValueError: if D is not a multiple of 4 or less than 8.

    >>> sincos_positions((1, 2), 8)[0].tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    """
    if hidden_size % 4 or hidden_size < 8:
        raise ValueError(
            "sine-cosine positions need a `hidden_size` that is a multiple of 4 and at least 8. "
            f"Received: {hidden_size}"
        )
    quarter = hidden_size // 4
    frequencies = 10000.0 ** -(np.arange(quarter) / (quarter - 1))
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    x, y = (np.outer(axis.ravel(), frequencies) for axis in (columns, rows))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype("float32")


@keras.saving.register_keras_serializable(package="keras_vit")
class SinCosPositionEmbedding(keras.layers.Layer):
    """Adds `sincos_positions`; tokens before the patches (a class token) get nothing added.

    Args:
        grid: (h, w) in patches.

    Call arguments:
        tokens: (B, T, D) with T >= h w.
    """

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def build(self, input_shape):
        tokens, features = input_shape[1:]
        positions = sincos_positions(self.grid, features)
        self.positions = np.pad(positions, ((tokens - len(positions), 0), (0, 0)))

    def call(self, tokens):
        return tokens + ops.convert_to_tensor(self.positions, dtype=tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}
