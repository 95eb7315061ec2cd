"""Attention along one axis of a map at a time (D.6 of arXiv:2010.11929v2).

Shapes: B batch, h w grid, T = h w tokens, D hidden, k heads.
"""

import keras
from keras import ops

from keras_vit.layers.encoder import EncoderBlock
from keras_vit.layers.trainable import CompositeLayer


def along_height(x):
    """(B, h, w, D) -> (B w, h, D): each column of the map as a sequence."""
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, x.shape[1], x.shape[3]))


def from_height(x, width):
    """(B w, h, D) -> (B, h, w, D): back from `along_height`."""
    x = ops.reshape(x, (-1, width, *x.shape[1:]))
    return ops.transpose(x, (0, 2, 1, 3))


@keras.saving.register_keras_serializable(package="keras_vit")
class AxialEncoderBlock(CompositeLayer):
    """Two encoder blocks: the first one's tokens attend along the height, the second's the width.

    Each is a whole pre-norm block with an MLP of its own.  No T x T product is ever made: the
    memory of attention grows with T (h + w).  They are in the order of scenic's `EncoderAxial`,
    and stochastic depth drops a branch for each row or column by itself, as there.

    Args:
        grid: (h, w) in patches.
        block: Arguments of both `EncoderBlock`s, a dict.

    Attributes:
        remat: as in `EncoderBlock`, of both; at first True, for what two blocks would keep for
            their gradients is more than what whole attention takes at 512 px.

    Call arguments:
        tokens: (B, h w, D): the patches alone, in reading order.
        training: whether dropout and stochastic depth act.

    Raises:
        ValueError: when built on another number of tokens.
    """

    remat = True

    def __init__(self, grid, block, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.block = dict(block)

    def build(self, input_shape):
        height, width = self.grid
        if input_shape[1] != height * width:
            raise ValueError(
                f"axial attention needs the {height * width} tokens of the grid {self.grid} and no "
                f"others. Received: {input_shape[1]} tokens"
            )
        self.row = EncoderBlock(**self.block, dtype=self.dtype_policy, name="row")
        self.row.build((None, height, input_shape[-1]))
        self.column = EncoderBlock(**self.block, dtype=self.dtype_policy, name="column")
        self.column.build((None, width, input_shape[-1]))
        self.restore_parts()

    def call(self, tokens, training=None):
        self.row.remat = self.column.remat = self.remat
        (height, width), features = self.grid, tokens.shape[-1]
        x = ops.reshape(tokens, (-1, height, width, features))
        x = from_height(self.row(along_height(x), training=training), width)  # (B, h, w, D)
        x = ops.reshape(x, (-1, width, features))  # (B h, w, D)
        x = self.column(x, training=training)
        return ops.reshape(x, (-1, height * width, features))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "block": self.block}
