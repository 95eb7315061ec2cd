"""Where a patch is: positions added to the tokens, and relative ones (D.4 of arXiv:2010.11929v2).

Shapes: B batch, h w grid, T tokens (h w, and those before the patches), D hidden, k heads,
d = D / k.
"""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import initializers

# How the heads share the table of `relative_logits`.
RELATIVE_POSITIONS = ("shared", "per_head")


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

    def get_config(self):
        # Without it, Keras cannot serialize a layer that was given a dtype policy.
        return super().get_config()


@keras.saving.register_keras_serializable(package="keras_vit")
class LearnedPositionEmbedding2D(keras.layers.Layer):
    """Adds a learned vector of the patch's column and one of its row, side by side.

    The first D / 2 features are those of the column, the others those of the row, each N(0, 0.02)
    at first (D.4 of arXiv:2010.11929v2).  Each token before the patches has a vector of its own.

    Args:
        grid: (h, w) in patches.

    Call arguments:
        tokens: (B, T, D) with T >= h w and an even D.

    Raises:
        ValueError: when built on fewer tokens or an odd D.
    """

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def build(self, input_shape):
        tokens, features = input_shape[1:]
        height, width = self.grid
        num_leading = tokens - height * width
        if num_leading < 0 or features % 2:
            raise ValueError(
                f"2-D positions need {height * width} tokens or more, and an even number of "
                f"features. Received: {tokens} tokens of {features} features"
            )
        shapes = {"x_embedding": (width, features // 2), "y_embedding": (height, features // 2)}
        if num_leading:
            shapes["leading_embedding"] = (num_leading, features)
        for name, shape in shapes.items():
            weight = self.add_weight(name=name, shape=shape, initializer=initializers.normal(0.02))
            setattr(self, name, weight)

    def call(self, tokens):
        height, width = self.grid
        half = tokens.shape[-1] // 2
        columns = ops.broadcast_to(self.x_embedding[None], (height, width, half))
        rows = ops.broadcast_to(self.y_embedding[:, None], (height, width, half))
        positions = ops.reshape(ops.concatenate([columns, rows], axis=-1), (-1, 2 * half))
        if tokens.shape[1] > height * width:
            positions = ops.concatenate([self.leading_embedding, positions], axis=0)
        return tokens + positions  # (B, T, D)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


# The last frequency's exponent: 1, or one step of D/4 before it.
SINCOS_FREQUENCIES = ("moco", "mae")


def sincos_positions(grid, hidden_size, frequencies="moco"):
    """2-D sine-cosine positions in the order of MoCo v3, big_vision and MAE.

    With w_k = 10000^(-k / (D/4 - 1)) for k = 0 ... D/4 - 1, the position in row y and column x is
    [sin(x w), cos(x w), sin(y w), cos(y w)].  MAE has w_k = 10000^(-k / (D/4)).

    Args:
        grid: (h, w) in patches.
        hidden_size: D, a multiple of 4 and at least 8.
        frequencies: `"moco"`, which is big_vision's too, or `"mae"`.

    Returns:
        (h w, D) float32 array, rows in reading order.

    Raises:
        ValueError: if D is not a multiple of 4 or less than 8.

    >>> sincos_positions((1, 2), 8)[0].tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    """
    rates = sincos_rates(hidden_size, frequencies)
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    x, y = (np.outer(axis.ravel(), rates) for axis in (columns, rows))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype("float32")


def sincos_rates(hidden_size, frequencies):
    """The w_k of `sincos_positions`: (D / 4,) float64; raises ValueError as that does."""
    if hidden_size % 4 or hidden_size < 8:
        raise ValueError(
            "sine-cosine positions need a `hidden_size` that is a multiple of 4 and at least 8. "
            f"Received: {hidden_size}"
        )
    quarter = hidden_size // 4
    last = {"moco": quarter - 1, "mae": quarter}[frequencies]
    return 10000.0 ** -(np.arange(quarter) / last)


@keras.saving.register_keras_serializable(package="keras_vit")
class SinCosPositionEmbedding(keras.layers.Layer):
    """Adds `sincos_positions`; tokens before the patches (a class token) get nothing added.

    Args:
        grid: (h, w) in patches.
        frequencies: `"moco"` or `"mae"`, as in `sincos_positions`.

    Call arguments:
        tokens: (B, T, D) with T >= h w.

    Raises:
        ValueError: For other frequencies.
    """

    def __init__(self, grid, frequencies="moco", **kwargs):
        super().__init__(**kwargs)
        if frequencies not in SINCOS_FREQUENCIES:
            raise ValueError(
                f"`frequencies` must be one of {SINCOS_FREQUENCIES}. Received: {frequencies!r}"
            )
        self.grid = tuple(grid)
        self.frequencies = frequencies

    def build(self, input_shape):
        tokens, features = input_shape[1:]
        positions = sincos_positions(self.grid, features, self.frequencies)
        self.positions = np.pad(positions, ((tokens - len(positions), 0), (0, 0)))

    def call(self, tokens):
        return tokens + ops.convert_to_tensor(self.positions, dtype=tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "frequencies": self.frequencies}


def relative_logits(query, table):
    """What a query adds to its logits for each distance of a key in the sequence.

    out[q, s] = query[q] . table[q - s + T - 1]: one product with all 2 T - 1 vectors, and a shift
    of its rows in the place of a gather.

    Args:
        query: (B, k, T, d), scaled as for the content logits.
        table: (2 T - 1, d), or (k, 2 T - 1, d) with a table for each head.

    Returns:
        (B, k, T, T) in the dtype of `query`.
    """
    heads, tokens = query.shape[1:3]
    # From the last offset to the first: along a row of the result the offset falls.
    table = ops.cast(ops.flip(table, axis=-2), query.dtype)
    products = ops.matmul(query, ops.swapaxes(table, -1, -2))  # (B, k, T, 2 T - 1)
    # With one more column, reading on in rows of 2 T - 1 moves each row by one more to the left.
    padded = ops.pad(products, ((0, 0), (0, 0), (0, 0), (0, 1)))
    flat = ops.reshape(padded, (-1, heads, tokens * 2 * tokens))
    flat = flat[:, :, tokens - 1 : tokens - 1 + tokens * (2 * tokens - 1)]
    return ops.reshape(flat, (-1, heads, tokens, 2 * tokens - 1))[..., :tokens]
