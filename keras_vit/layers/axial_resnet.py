"""The residual unit of AxialResNet (D.6 of arXiv:2010.11929v2, after arXiv:2003.07853).

Shapes: B batch, h w map, C channels, m middle channels of a unit, n tokens of a sequence, k heads,
d = C / k.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.axial import along_height, from_height
from keras_vit.layers.resnet import NUM_GROUPS, ResidualUnit
from keras_vit.layers.trainable import CompositeLayer

AXES = ("height", "width")


@keras.saving.register_keras_serializable(package="keras_vit")
class AxialAttention(CompositeLayer):
    """Attention along one axis of a map, with relative positions in query, key and value.

    With q, k of d / 2 features and v of d, and tables r of vectors for each offset of two places:

        a[i, j] = softmax_j(q_i . k_j + q_i . r^k_{j-i} + k_i . r^q_{j-i})
        y_i = sum_j a[i, j] (v_j + r^v_{j-i})

    without a scale: group norms before and after take its place.  As scenic's `AxialSelfAttention`.

    Args:
        num_heads: k; twice of it must divide C.
        axis: `"height"` or `"width"`, along which a place attends.
        group_norm_epsilon: 1e-4 in scenic's code.

    Call arguments:
        inputs: (B, h, w, C); the axis must have the length that the layer was built on.

    Returns:
        (B, h, w, C).

    Raises:
        ValueError: for an unknown axis, or when built on a C that does not fit.
    """

    def __init__(self, num_heads, axis, group_norm_epsilon=1e-4, **kwargs):
        super().__init__(**kwargs)
        if axis not in AXES:
            raise ValueError(f"`axis` must be one of {AXES}. Received: {axis!r}")
        self.num_heads = num_heads
        self.axis = axis
        self.group_norm_epsilon = group_norm_epsilon

    def build(self, input_shape):
        channels, length = input_shape[-1], input_shape[1 + AXES.index(self.axis)]
        if channels % (2 * self.num_heads):
            raise ValueError(
                "twice `num_heads` must divide the channels. "
                f"Received: num_heads={self.num_heads}, {channels} channels"
            )
        size = channels // self.num_heads
        self.qkv_kernel = self.add_weight(
            name="qkv_kernel",
            shape=(channels, 2 * channels),
            initializer=initializers.normal(1 / channels),
        )
        self.relative_embedding = self.add_weight(
            name="relative_embedding",
            shape=(2 * size, 2 * length - 1),
            initializer=initializers.normal(1 / size),
        )
        for name, width in (("gn_qkv", 2 * channels), ("gn_out", channels)):
            norm = keras.layers.GroupNormalization(
                NUM_GROUPS, epsilon=self.group_norm_epsilon, dtype=self.dtype_policy, name=name
            )
            norm.build((None, length, width))
            setattr(self, name, norm)
        self.restore_parts()

    def call(self, inputs):
        if self.axis == "height":
            return from_height(self._attend(along_height(inputs)), inputs.shape[2])
        height, width, channels = inputs.shape[1:]
        outputs = self._attend(ops.reshape(inputs, (-1, width, channels)))
        return ops.reshape(outputs, (-1, height, width, channels))

    def _attend(self, x):
        """(B', n, C) -> (B', n, C): over the sequences of one axis."""
        length, channels = x.shape[1:]
        size = channels // self.num_heads
        qkv = self.gn_qkv(ops.matmul(x, self.qkv_kernel))  # (B', n, 2 C)
        qkv = ops.reshape(qkv, (-1, length, self.num_heads, 2 * size))
        qkv = ops.transpose(qkv, (0, 2, 1, 3))  # (B', k, n, 2 d)
        parts = (size // 2, size)
        query, key, value = ops.split(qkv, parts, axis=-1)
        # The offset of place j from place i, counted from the first column of the table.
        offsets = ops.arange(length)[None] - ops.arange(length)[:, None] + length - 1
        table = ops.take(ops.cast(self.relative_embedding, x.dtype), offsets, axis=1)  # (2 d, n, n)
        of_query, of_key, of_value = ops.split(table, parts, axis=0)
        scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
        scores = scores + ops.einsum("bhid,dij->bhij", query, of_key)
        scores = scores + ops.einsum("bhid,dij->bhij", key, of_query)
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), x.dtype)
        mixed = ops.matmul(weights, value) + ops.einsum("bhij,dij->bhid", weights, of_value)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, length, channels))
        return self.gn_out(mixed)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "axis": self.axis,
            "group_norm_epsilon": self.group_norm_epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class AxialBottleneckUnit(ResidualUnit):
    """`BottleneckUnit` with attention along height and width in the place of its 3x3 convolution.

    The stride is that of a mean over 2 x 2 places after both; an odd side is filled up with zeros.

    Args:
        filters: m; the output has 4 m channels.
        stride: 1 or 2.
        group_norm_epsilon: 1e-4 in scenic's code.
        conv_epsilon: added to the kernels' standard deviation, 1e-5.
        num_heads: k; twice of it must divide m.

    Call arguments:
        inputs: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), 4 m).

    Raises:
        ValueError: for another stride.
    """

    standardization = "deviation"

    def __init__(
        self,
        filters,
        stride=1,
        group_norm_epsilon=1e-4,
        conv_epsilon=1e-5,
        num_heads=8,
        **kwargs,
    ):
        super().__init__(filters, stride, group_norm_epsilon, conv_epsilon, **kwargs)
        if stride not in (1, 2):
            raise ValueError(f"`stride` must be 1 or 2. Received: {stride!r}")
        self.num_heads = num_heads

    def build(self, input_shape):
        if self._projects(input_shape):
            shape = self._add_conv("conv_proj", input_shape, 4 * self.filters, 1, self.stride)
            self._add_norm("gn_proj", shape)
        shape = self._add_conv("conv1", input_shape, self.filters, 1)
        self._add_norm("gn1", shape)
        for axis in AXES:
            attention = AxialAttention(
                self.num_heads,
                axis,
                self.group_norm_epsilon,
                dtype=self.dtype_policy,
                name=f"attention_{axis}",
            )
            attention.build(shape)
            setattr(self, f"attention_{axis}", attention)
        shape = self._add_conv("conv3", shape, 4 * self.filters, 1)
        self._add_norm("gn3", shape, gamma_initializer="zeros")
        self.restore_parts()

    def call(self, inputs):
        shortcut = inputs
        if self._projects(inputs.shape):
            shortcut = self.gn_proj(self.conv_proj(inputs))
        hidden = ops.relu(self.gn1(self.conv1(inputs)))
        hidden = self.attention_width(self.attention_height(hidden))
        hidden = ops.relu(hidden if self.stride == 1 else _halved(hidden))
        return ops.relu(shortcut + self.gn3(self.conv3(hidden)))

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


def _halved(x):
    """(B, h, w, C) -> (B, ceil(h / 2), ceil(w / 2), C): means of 2 x 2, zeros beyond the edge."""
    height, width, channels = x.shape[1:]
    x = ops.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = ops.reshape(x, (-1, -(-height // 2), 2, -(-width // 2), 2, channels))
    return ops.mean(x, axis=(2, 4))
