"""Weight standardisation and the residual units against numpy."""

import keras
import numpy as np
import pytest

from keras_vit.layers import BottleneckUnit, PreActivationUnit, StandardizedConv2D

ROUNDING = 3e-6  # float32 sums of some hundred terms, divided by their deviation


@pytest.mark.parametrize(
    ("standardization", "epsilon"), [("deviation", 0.5), ("variance", 0.5)], ids=str
)
def test_standardized_convolution_divides_as_its_family_does(
    standardization, epsilon, assert_close
):
    layer = StandardizedConv2D(6, 3, 2, "valid", standardization, epsilon)
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype("float32")
    actual = layer(images)
    kernel = layer.get_weights()[0].astype("float64")
    mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    divisor = {"deviation": np.sqrt(variance) + epsilon, "variance": np.sqrt(variance + epsilon)}
    kernel = ((kernel - mean) / divisor[standardization]).astype("float32")
    expected = keras.ops.conv(images, kernel, strides=2, padding="valid")
    assert_close(actual, keras.ops.convert_to_numpy(expected), ROUNDING)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_standardized_convolution_contract(check_layer_contract, padding):
    arguments = {"filters": 4, "kernel_size": 3, "stride": 2, "padding": padding}
    side = {"same": 4, "valid": 3}[padding]
    check_layer_contract(StandardizedConv2D, arguments, (2, 8, 8, 3), (2, side, side, 4))


@pytest.mark.parametrize("unit", [BottleneckUnit, PreActivationUnit])
@pytest.mark.parametrize(("stride", "side"), [(1, 7), (2, 4)])
def test_unit_contract(check_layer_contract, unit, stride, side):
    arguments = {"filters": 32, "stride": stride}
    check_layer_contract(unit, arguments, (2, 7, 7, 32), (2, side, side, 128))


def test_bottleneck_starts_as_the_relu_of_its_shortcut():
    unit = BottleneckUnit(32)
    images = np.random.default_rng(0).normal(size=(1, 4, 4, 128)).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(unit(images)), np.maximum(images, 0))


def test_units_project_only_where_channels_or_stride_change():
    for unit in (BottleneckUnit, PreActivationUnit):
        plain, wider, strided = unit(32), unit(32), unit(32, stride=2)
        for layer, channels in ((plain, 128), (wider, 64), (strided, 128)):
            layer.build((None, 8, 8, channels))
        assert not hasattr(plain, "conv_proj")
        assert hasattr(wider, "conv_proj")
        assert hasattr(strided, "conv_proj")


def test_unknown_standardization_is_refused():
    with pytest.raises(ValueError, match="must be one of .*'mean'"):
        StandardizedConv2D(4, 3, standardization="mean")
