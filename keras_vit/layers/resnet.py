"""Residual units with weight-standardised convolutions and group norm.

`BottleneckUnit` is the post-activation unit of the hybrids' stem, `PreActivationUnit` that of
BiT-ResNet (arXiv:1912.11370).  Shapes: B batch, H W pixels, C channels, m middle channels.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.trainable import CompositeLayer

NUM_GROUPS = 32


def standardize_by_deviation(kernel, epsilon):
    """(w - mean) / (std + epsilon) over height, width and input channels: the hybrids' stem."""
    centred = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(0, 1, 2), keepdims=True)
    return centred / (ops.sqrt(variance) + epsilon)


def standardize_by_variance(kernel, epsilon):
    """(w - mean) / sqrt(variance + epsilon) over height, width and input channels: BiT."""
    centred = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(0, 1, 2), keepdims=True)
    return centred / ops.sqrt(variance + epsilon)


STANDARDIZATIONS = {"deviation": standardize_by_deviation, "variance": standardize_by_variance}


@keras.saving.register_keras_serializable(package="keras_vit")
class StandardizedConv2D(keras.layers.Layer):
    """Convolution without bias whose kernel is standardised each time (arXiv:1903.10520).

    The statistics are taken in float32, whatever the compute dtype.

    Args:
        filters: number of output channels.
        kernel_size: side of the square kernel.
        stride: in both directions.
        padding: `"same"` (TensorFlow's: for even inputs one pixel more below and to the right)
            or `"valid"`.
        standardization: `"deviation"` divides by std + epsilon, `"variance"` by
            sqrt(variance + epsilon).
        epsilon: 1e-5 in the hybrids, 1e-10 in BiT.

    Call arguments:
        inputs: (B, H, W, C).
    """

    def __init__(
        self,
        filters,
        kernel_size,
        stride=1,
        padding="same",
        standardization="deviation",
        epsilon=1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if standardization not in STANDARDIZATIONS:
            raise ValueError(
                f"`standardization` must be one of {sorted(STANDARDIZATIONS)}. "
                f"Received: {standardization!r}"
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.standardization = standardization
        self.epsilon = epsilon

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=initializers.lecun_normal(),
            autocast=False,
        )

    def call(self, inputs):
        kernel = STANDARDIZATIONS[self.standardization](self.kernel, self.epsilon)
        return ops.conv(
            inputs,
            ops.cast(kernel, self.compute_dtype),
            strides=self.stride,
            padding=self.padding,
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        if self.padding == "same":
            sides = [-(-side // self.stride) for side in sides]
        else:
            sides = [(side - self.kernel_size) // self.stride + 1 for side in sides]
        return (batch, *sides, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "standardization": self.standardization,
            "epsilon": self.epsilon,
        }


class ResidualUnit(CompositeLayer):
    """What all units share: their arguments and how their parts are made."""

    standardization: str

    def __init__(self, filters, stride=1, group_norm_epsilon=1e-6, conv_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride
        self.group_norm_epsilon = group_norm_epsilon
        self.conv_epsilon = conv_epsilon

    def _projects(self, input_shape):
        return input_shape[-1] != 4 * self.filters or self.stride != 1

    def _add_conv(self, name, input_shape, filters, kernel_size, stride=1, padding="same"):
        conv = StandardizedConv2D(
            filters,
            kernel_size,
            stride,
            padding,
            self.standardization,
            self.conv_epsilon,
            dtype=self.dtype_policy,
            name=name,
        )
        conv.build(input_shape)
        setattr(self, name, conv)
        return conv.compute_output_shape(input_shape)

    def _add_norm(self, name, input_shape, gamma_initializer="ones"):
        norm = keras.layers.GroupNormalization(
            NUM_GROUPS,
            epsilon=self.group_norm_epsilon,
            gamma_initializer=gamma_initializer,
            dtype=self.dtype_policy,
            name=name,
        )
        norm.build(input_shape)
        setattr(self, name, norm)

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        return (batch, *(-(-side // self.stride) for side in sides), 4 * self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "group_norm_epsilon": self.group_norm_epsilon,
            "conv_epsilon": self.conv_epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class BottleneckUnit(ResidualUnit):
    """Post-activation bottleneck of the hybrids: relu(shortcut + GN(conv3(...))), stride on conv2.

    The shortcut is projected, with a group norm, where channels or stride change.

    Args:
        filters: m; the output has 4 m channels.
        stride: of the 3x3 convolution and of the projection.
        group_norm_epsilon: 1e-6 in the official code.
        conv_epsilon: added to the kernels' standard deviation (or variance).
        standardization: `"deviation"` in the official code, `"variance"` in timm's.

    Call arguments:
        inputs: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), 4 m).
    """

    def __init__(
        self,
        filters,
        stride=1,
        group_norm_epsilon=1e-6,
        conv_epsilon=1e-5,
        standardization="deviation",
        **kwargs,
    ):
        super().__init__(filters, stride, group_norm_epsilon, conv_epsilon, **kwargs)
        self.standardization = standardization

    def get_config(self):
        return {**super().get_config(), "standardization": self.standardization}

    def build(self, input_shape):
        if self._projects(input_shape):
            shape = self._add_conv("conv_proj", input_shape, 4 * self.filters, 1, self.stride)
            self._add_norm("gn_proj", shape)
        shape = self._add_conv("conv1", input_shape, self.filters, 1)
        self._add_norm("gn1", shape)
        shape = self._add_conv("conv2", shape, self.filters, 3, self.stride)
        self._add_norm("gn2", shape)
        shape = self._add_conv("conv3", shape, 4 * self.filters, 1)
        self._add_norm("gn3", shape, gamma_initializer="zeros")
        self.restore_parts()

    def call(self, inputs):
        shortcut = inputs
        if self._projects(inputs.shape):
            shortcut = self.gn_proj(self.conv_proj(inputs))
        hidden = ops.relu(self.gn1(self.conv1(inputs)))
        hidden = ops.relu(self.gn2(self.conv2(hidden)))
        return ops.relu(shortcut + self.gn3(self.conv3(hidden)))


@keras.saving.register_keras_serializable(package="keras_vit")
class PreActivationUnit(ResidualUnit):
    """Pre-activation bottleneck of BiT: norm and relu before each convolution, then a plain sum.

    The shortcut is the raw input, or a projection (without norm) of relu(GN(input)).

    Args:
        filters: m; the output has 4 m channels.
        stride: of the 3x3 convolution and of the projection.
        group_norm_epsilon: 1e-5 in the official code.
        conv_epsilon: added to the kernels' variance; 1e-10 in the official code.

    Call arguments:
        inputs: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), 4 m).
    """

    standardization = "variance"

    def build(self, input_shape):
        self._add_norm("gn1", input_shape)
        if self._projects(input_shape):
            self._add_conv("conv_proj", input_shape, 4 * self.filters, 1, self.stride)
        shape = self._add_conv("conv1", input_shape, self.filters, 1)
        self._add_norm("gn2", shape)
        # The official padding is one pixel on each side at any stride, unlike "same".
        padded = (shape[0], shape[1] + 2, shape[2] + 2, shape[3])
        shape = self._add_conv("conv2", padded, self.filters, 3, self.stride, padding="valid")
        self._add_norm("gn3", shape)
        self._add_conv("conv3", shape, 4 * self.filters, 1)
        self.restore_parts()

    def call(self, inputs):
        hidden = ops.relu(self.gn1(inputs))
        shortcut = self.conv_proj(hidden) if self._projects(inputs.shape) else inputs
        hidden = ops.relu(self.gn2(self.conv1(hidden)))
        hidden = ops.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        hidden = ops.relu(self.gn3(self.conv2(hidden)))
        return shortcut + self.conv3(hidden)
