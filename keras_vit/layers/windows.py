"""Attention inside windows of the grid (ViTDet, arXiv:2203.16527), with the weights of a block.

Shapes: B batch, h w grid, u v window, n windows of an image, L tokens before the patches,
T = L + h w tokens, D hidden, k heads, d = D / k.
"""

import keras
from keras import ops

from keras_vit.layers.attention import attend
from keras_vit.layers.regularization import dropout
from keras_vit.layers.trainable import CompositeLayer


def partitioned(x, window):
    """Maps as windows, in reading order: (B, k, h, w, d) -> (B n, k, u v, d).

    Args:
        x: (B, k, h, w, d); the window's sides divide h and w.
        window: (u, v) in patches.
    """
    (_, heads, height, width, size), (u, v) = x.shape, window
    x = ops.reshape(x, (-1, heads, height // u, u, width // v, v, size))
    x = ops.transpose(x, (0, 2, 4, 1, 3, 5, 6))
    return ops.reshape(x, (-1, heads, u * v, size))


def unpartitioned(x, window, grid):
    """Back from `partitioned`: (B n, k, u v, d) -> (B, k, h, w, d), where the grid is (h, w)."""
    (_, heads, _, size), (u, v), (height, width) = x.shape, window, grid
    x = ops.reshape(x, (-1, height // u, width // v, heads, u, v, size))
    x = ops.transpose(x, (0, 3, 1, 4, 2, 5, 6))
    return ops.reshape(x, (-1, heads, height, width, size))


def _distances(side, dtype):
    """(side, side, 2 side - 1): one where a table has the distance; its gradient is dense."""
    places = ops.arange(side)[:, None] - ops.arange(side)[None] + side - 1
    return ops.one_hot(places, 2 * side - 1, dtype=dtype)


def decomposed_logits(query, rows, columns):
    """What the distances in rows and in columns add to a window's logits, as in detectron2.

    out[q, s] = query[q] . rows[y_q - y_s + u - 1] + query[q] . columns[x_q - x_s + v - 1]

    Args:
        query: (B, k, u v, d), not scaled.
        rows: (2 u - 1, d), the table of vertical distances.
        columns: (2 v - 1, d), the table of horizontal ones.

    Returns:
        (B, k, u v, u v) in the dtype of `query`.
    """
    u, v = (rows.shape[0] + 1) // 2, (columns.shape[0] + 1) // 2
    heads, size = query.shape[1], query.shape[-1]
    grid = ops.reshape(query, (-1, heads, u, v, size))
    down, along = (
        ops.matmul(_distances(side, query.dtype), ops.cast(table, query.dtype))
        for table, side in ((rows, u), (columns, v))
    )  # (u, u, d), (v, v, d)
    down = ops.einsum("bkyxd,ysd->bkyxs", grid, down)
    along = ops.einsum("bkyxd,xsd->bkyxs", grid, along)
    logits = down[..., :, None] + along[..., None, :]  # (B, k, u, v, u, v)
    return ops.reshape(logits, (-1, heads, u * v, u * v))


@keras.saving.register_keras_serializable(package="keras_vit")
class WindowedBlock(CompositeLayer):
    """An encoder block whose patches attend inside windows; its weights are those of the block.

    The normed map is filled up with zeros at the right and the bottom until windows fill it, and
    what is filled up is attended to, as in detectron2.  Tokens before the patches attend to all
    tokens and are attended to in every window.  Memory grows with T (u v + L), never with T^2.
    One window that is the whole grid gives the block itself.

    Args:
        block: An `EncoderBlock` without relative positions of its own.
        grid: (h, w) in patches.
        window: (u, v) in patches, at most the grid.
        relative_positions: Whether decomposed relative positions (arXiv:2112.01526) are added to
            the logits between patches; their tables, shared by the heads, are zero at first.

    Call arguments:
        tokens: (B, T, D), the patches last and in reading order.
        training: Whether dropout and stochastic depth act.

    Raises:
        ValueError: For a window that is larger than the grid, or a block with relative positions.
    """

    def __init__(self, block, grid, window, relative_positions=False, **kwargs):
        super().__init__(**kwargs)
        self.block = block
        self.grid, self.window = tuple(grid), tuple(window)
        self.relative_positions = relative_positions
        if any(not 1 <= side <= whole for side, whole in zip(self.window, self.grid, strict=True)):
            raise ValueError(
                f"`window` must be between 1 and the grid {self.grid}. Received: {self.window}"
            )
        if block.relative_positions is not None:
            raise ValueError(
                "attention in windows takes a block without relative positions of its own. "
                f"Received: relative_positions={block.relative_positions!r}"
            )

    def build(self, input_shape):
        if not self.block.built:
            self.block.build(input_shape)
        self.rows = self.columns = None
        if self.relative_positions:
            size = input_shape[-1] // self.block.num_heads
            for name, side in zip(("rows", "columns"), self.window, strict=True):
                table = self.add_weight(name=name, shape=(2 * side - 1, size), initializer="zeros")
                setattr(self, name, table)
        self.restore_parts()

    def call(self, tokens, training=None):
        has_leading = tokens.shape[1] > self.grid[0] * self.grid[1]
        return self.block.with_attention(self._attention, tokens, training, draws=1 + has_leading)

    def _attention(self, tokens, training=None):
        """(B, T, D) -> (B, T, D), in the place of the block's own attention."""
        attention, features = self.block.attention, tokens.shape[-1]
        leading = tokens.shape[1] - self.grid[0] * self.grid[1]
        filled = tuple(
            -(-side // part) * part for side, part in zip(self.grid, self.window, strict=True)
        )
        missing = [(0, whole - side) for whole, side in zip(filled, self.grid, strict=True)]
        maps = ops.reshape(tokens[:, leading:], (-1, *self.grid, features))
        maps = ops.pad(maps, ((0, 0), *missing, (0, 0)))
        patches = ops.reshape(maps, (-1, filled[0] * filled[1], features))
        q, k, v = attention.projected(
            ops.concatenate([tokens[:, :leading], patches], axis=1), training=training
        )  # (B, k, L + patches, d)
        windows = [self._in_windows(x, leading, filled, i > 0) for i, x in enumerate((q, k, v))]
        mixed = unpartitioned(self._mixed(*windows, leading, training), self.window, filled)
        mixed = mixed[:, :, : self.grid[0], : self.grid[1]]  # (B, k, h, w, d)
        mixed = ops.reshape(
            mixed, (-1, attention.num_heads, self.grid[0] * self.grid[1], attention.head_size)
        )
        if leading:
            # The patches alone, without what was filled up.
            k, v = (self._of_grid(x, leading, filled) for x in (k, v))
            first = attend(
                *(q[:, :, :leading], k, v),
                *(attention.attention_dropout, attention.seeds, training),
            )
            mixed = ops.concatenate([first, mixed], axis=2)
        return attention.joined(mixed, training)

    def _in_windows(self, x, leading, filled, with_leading):
        """(B, k, L + patches, d) -> (B n, k, u v, d), or with the first L tokens in each."""
        heads, size = x.shape[1], x.shape[-1]
        patches = ops.reshape(x[:, :, leading:], (-1, heads, *filled, size))
        patches = partitioned(patches, self.window)
        if not (leading and with_leading):
            return patches
        number = (filled[0] // self.window[0]) * (filled[1] // self.window[1])
        first = ops.repeat(x[:, :, :leading], number, axis=0)
        return ops.concatenate([first, patches], axis=2)

    def _of_grid(self, x, leading, filled):
        heads, size = x.shape[1], x.shape[-1]
        patches = ops.reshape(x[:, :, leading:], (-1, heads, *filled, size))
        patches = patches[:, :, : self.grid[0], : self.grid[1]]
        patches = ops.reshape(patches, (-1, heads, self.grid[0] * self.grid[1], size))
        return ops.concatenate([x[:, :, :leading], patches], axis=2)

    def _mixed(self, query, key, value, leading, training):
        """softmax(q k^T / sqrt(d) + positions) v in each window: (B n, k, u v, d)."""
        attention = self.block.attention
        rate, seeds = attention.attention_dropout, attention.seeds
        if not self.relative_positions:
            return attend(query, key, value, rate, seeds, training)
        logits = decomposed_logits(query, self.rows, self.columns)
        logits = ops.pad(logits, ((0, 0), (0, 0), (0, 0), (leading, 0)))
        scaled = query * ops.cast(query.shape[-1] ** -0.5, query.dtype)
        scores = ops.matmul(scaled, ops.swapaxes(key, -1, -2)) + logits
        probabilities = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        probabilities = ops.cast(probabilities, value.dtype)
        return ops.matmul(dropout(probabilities, rate, seeds, training), value)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "block": keras.saving.serialize_keras_object(self.block),
            "grid": self.grid,
            "window": self.window,
            "relative_positions": self.relative_positions,
        }

    @classmethod
    def from_config(cls, config):
        block = keras.saving.deserialize_keras_object(config["block"])
        return cls(**{**config, "block": block})
