"""Positions of a model whose height and width are free: computed in the graph, for any grid.

Shapes: B batch, H W pixels, P Q pixels of a patch, h w grid of the images, N = h w patches,
T tokens (N, and those before the patches), D hidden; h0 w0 the grid that the positions are of.
"""

import keras
from keras import ops

from keras_vit import resize_rules
from keras_vit.layers import initializers
from keras_vit.layers.positions import SINCOS_FREQUENCIES, sincos_rates

_RULE = "images must have a height and width that patches of {} fill"


def check_filled(image_size, patch_size):
    """Raises ValueError unless patches fill images, both (height, width) in pixels.

    >>> check_filled((28, 42), (14, 14))
    """
    if any(s < p or s % p for s, p in zip(image_size, patch_size, strict=True)):
        raise ValueError(f"{_RULE.format(patch_size)}. Received: {image_size}")


@keras.saving.register_keras_serializable(package="keras_vit")
class WholePatches(keras.layers.Layer):
    """Returns images as they are, once it is seen that patches fill them: (B, H, W, C).

    TensorFlow tests it when the graph runs where it does not know the size before; XLA leaves such
    a test out, and there the patches' reshape fails.

    Args:
        patch_size: (P, Q) in pixels.

    Raises:
        ValueError: For images whose sides are no multiples of the patches'; from inside a graph of
            TensorFlow, `tf.errors.InvalidArgumentError`.
    """

    def __init__(self, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = tuple(patch_size)
        # Keras would choose XLA by itself, compile anew for each size, and leave the test out.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def call(self, images):
        sides = images.shape[1:3]
        if None not in sides:
            check_filled(tuple(sides), self.patch_size)
            return images
        import tensorflow as tf

        sides = tf.shape(images)[1:3]
        fits = tf.logical_and(sides >= self.patch_size, sides % self.patch_size == 0)
        message = [f"{_RULE.format(self.patch_size)}. Received: ", sides]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fits), message)]):
            return tf.identity(images)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "patch_size": self.patch_size}


class _GridPositions(keras.layers.Layer):
    """Adds positions that are computed for the grid of a second input.

    Call arguments:
        tokens: (B, T, D).
        patches: (B, h, w, D), of which only the shape is used.

    Returns:
        (B, T, D).
    """

    def positions(self, grid):
        """(1, T, D) or (T, D) float32: what is added where the grid is (h, w)."""
        raise NotImplementedError

    def call(self, tokens, patches):
        return tokens + ops.cast(self.positions(ops.shape(patches)[1:3]), tokens.dtype)

    def compute_output_shape(self, tokens_shape, patches_shape):
        return tokens_shape


@keras.saving.register_keras_serializable(package="keras_vit")
class DynamicPositionEmbedding(_GridPositions):
    """Adds learned positions, interpolated from their grid to that of the images.

    Its variable is that of `LearnedPositionEmbedding` for images of the positions' own grid, to
    which nothing is interpolated.

    Args:
        grid: (h0, w0).
        num_leading: How many rows of the table are of tokens before the patches, and stay.
        resize: A name of `resize_rules.RULES`.

    Raises:
        ValueError: For an unknown rule.
    """

    def __init__(self, grid, num_leading=0, resize="aligned", **kwargs):
        super().__init__(**kwargs)
        resize_rules.check_rule(resize)
        self.grid, self.num_leading, self.resize = tuple(grid), num_leading, resize

    def build(self, tokens_shape, patches_shape):
        rows = self.num_leading + self.grid[0] * self.grid[1]
        self.embedding = self.add_weight(
            name="embedding",
            shape=(1, rows, tokens_shape[-1]),
            initializer=initializers.normal(0.02),
            autocast=False,  # what is interpolated is rounded once, at the end
        )

    def positions(self, grid):
        features, (height, width) = self.embedding.shape[-1], self.grid
        table = ops.convert_to_tensor(self.embedding)[0]
        leading, patches = table[: self.num_leading], table[self.num_leading :]
        rows, columns = self._matrices(grid)
        patches = ops.reshape(patches, (height, width * features))
        patches = ops.reshape(ops.matmul(rows, patches), (-1, width, features))  # (h, w0, D)
        patches = ops.matmul(columns, patches)  # (h, w, D)
        return ops.concatenate([leading, ops.reshape(patches, (-1, features))])[None]

    def _matrices(self, grid):
        """(h, h0) and (w, w0) float32; ones on the diagonal where the grid is the positions' own.

        A rule need not give its own grid back: DINOv2's, with its offset, does not.
        """
        axes = []
        for size, count in zip(self.grid, grid, strict=True):
            cells = ops.arange(size, dtype="float32")
            samples = ops.arange(count, dtype="float32")
            axes.append((cells, samples, ops.cast(count, "float32")))
        is_own = ops.logical_and(*(ops.equal(axis[2], axis[0].shape[0]) for axis in axes))
        return [
            ops.where(
                is_own,
                ops.cast(ops.equal(samples[:, None], cells), "float32"),
                resize_rules.matrix(self.resize, ops, cells, samples, count),
            )
            for cells, samples, count in axes
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_leading": self.num_leading,
            "resize": self.resize,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class DynamicSinCosEmbedding(_GridPositions):
    """Adds `sincos_positions` of the images' grid; tokens before the patches get nothing added.

    Args:
        num_leading: How many tokens come before the patches.
        frequencies: As in `sincos_positions`.

    Raises:
        ValueError: For other frequencies, or when built on a D that is none for them.
    """

    def __init__(self, num_leading=0, frequencies="moco", **kwargs):
        super().__init__(**kwargs)
        if frequencies not in SINCOS_FREQUENCIES:
            raise ValueError(
                f"`frequencies` must be one of {SINCOS_FREQUENCIES}. Received: {frequencies!r}"
            )
        self.num_leading, self.frequencies = num_leading, frequencies

    def build(self, tokens_shape, patches_shape):
        self.hidden_size = tokens_shape[-1]
        self.rates = sincos_rates(self.hidden_size, self.frequencies)

    def positions(self, grid):
        height, width = grid
        half = self.hidden_size // 2
        along = []
        for count in (width, height):
            angles = ops.arange(count, dtype="float32")[:, None] * self.rates  # (n, D / 4)
            along.append(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1))
        x = ops.broadcast_to(along[0][None], (height, width, half))
        y = ops.broadcast_to(along[1][:, None], (height, width, half))
        patches = ops.reshape(ops.concatenate([x, y], axis=-1), (-1, 2 * half))  # (N, D)
        return ops.pad(patches, ((self.num_leading, 0), (0, 0)))

    def get_config(self):
        return {
            **super().get_config(),
            "num_leading": self.num_leading,
            "frequencies": self.frequencies,
        }
