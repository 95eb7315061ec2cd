"""From pixels to tokens: patches and the class token (Eq. 1 of arXiv:2010.11929v2).

Shapes: B batch, H W pixels, C channels, P Q patch height and width, h w grid, N = h w patches,
T tokens, D hidden.
"""

import keras
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
        use_bias: Whether a bias is added.

    Call arguments:
        images: (B, H, W, C) floats.

    Returns:
        (B, h, w, D) with h = H // P and w = W // Q; None for a side that is free.
    """

    def __init__(self, hidden_size, patch_size, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.patch_size = tuple(patch_size)
        self.use_bias = use_bias
        if self.name == "embedding":
            # The pinned name is also the first one that Keras would give to an `Embedding`; with
            # this, Keras goes on at `embedding_1`.
            keras.backend.get_uid(self.name)

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.patch_size, input_shape[-1], self.hidden_size),
            initializer=initializers.lecun_normal(),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.hidden_size,), initializer="zeros")

    def call(self, images):
        rows, columns = self.patch_size
        batch, height, width = self.compute_output_shape((-1, *images.shape[1:]))[:3]
        channels, patches = images.shape[-1], images
        if None in (height, width):
            # Nothing is left out here: with a batch that is told, the reshape fails for a rest.
            batch, height, width = ops.shape(images)[:3]
            height, width = height // rows, width // columns
        else:
            patches = images[:, : height * rows, : width * columns]
        patches = ops.reshape(patches, (batch, height, rows, width, columns, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))  # (B, h, w, P, Q, C)
        patches = ops.reshape(patches, (-1, height, width, rows * columns * channels))
        kernel = ops.reshape(self.kernel, (rows * columns * channels, self.hidden_size))
        embedded = ops.matmul(patches, kernel)  # (B, h, w, D)
        return embedded if self.bias is None else embedded + self.bias

    def compute_output_shape(self, input_shape):
        batch, height, width = input_shape[:3]
        grid = [
            side and side // patch
            for side, patch in zip((height, width), self.patch_size, strict=True)
        ]
        return (batch, *grid, self.hidden_size)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "patch_size": self.patch_size,
            "use_bias": self.use_bias,
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
        return (batch, tokens and tokens + 1, features)

    def get_config(self):
        # Without it, Keras cannot serialize a layer that was given a dtype policy.
        return super().get_config()


@keras.saving.register_keras_serializable(package="keras_vit")
class RegisterTokens(keras.layers.Layer):
    """Puts learned tokens between others (registers, arXiv:2309.16588): (B, T, D) -> (B, T + R, D).

    Args:
        num_registers: R.
        position: How many of the given tokens come before them.
    """

    def __init__(self, num_registers, position, **kwargs):
        super().__init__(**kwargs)
        self.num_registers = num_registers
        self.position = position

    def build(self, input_shape):
        self.tokens = self.add_weight(
            name="tokens",
            shape=(1, self.num_registers, input_shape[-1]),
            initializer=initializers.normal(1e-6),
        )

    def call(self, tokens):
        shape = (ops.shape(tokens)[0], self.num_registers, tokens.shape[-1])
        registers = ops.broadcast_to(ops.cast(self.tokens, tokens.dtype), shape)
        first, rest = tokens[:, : self.position], tokens[:, self.position :]
        return ops.concatenate([first, registers, rest], axis=1)

    def compute_output_shape(self, input_shape):
        batch, tokens, features = input_shape
        return (batch, tokens and tokens + self.num_registers, features)

    def get_config(self):
        return {
            **super().get_config(),
            "num_registers": self.num_registers,
            "position": self.position,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class MaskToken(keras.layers.Layer):
    """Keeps the token of a masked pre-training, which nothing uses any more; returns its input."""

    def build(self, input_shape):
        self.token = self.add_weight(
            name="token", shape=(1, input_shape[-1]), initializer="zeros", trainable=False
        )

    def call(self, tokens):
        return tokens

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        # Without it, Keras cannot serialize a layer that was given a dtype policy.
        return super().get_config()
