"""Kernels of 8 bits: the sums against NumPy's, gradients, and what a configuration keeps."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.layers import MultiHeadAttention
from keras_vit.layers.encoder import EncoderBlock
from keras_vit.layers.lora import Dense
from keras_vit.layers.quantization import int8_product, restored, rounded

# float32: quotients of whole numbers, in another order.
ATOL = 1e-5


def made(seed=0, shape=(6, 8)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).astype(np.float32) for size in ((5, shape[0]), shape)]


def expected_product(x, kernel):
    """round(x t) round(W s) / (t s) in whole numbers, and W as it is kept."""
    s = 127 / (np.abs(kernel).max(axis=0) + 1e-7)
    t = 127 / (np.abs(x).max(axis=-1, keepdims=True) + 1e-7)
    stored = np.clip(np.round(kernel * s), -127, 127)
    rows = np.clip(np.round(x * t), -127, 127)
    return (rows @ stored) / (t * s), stored / s


def test_a_product_is_that_of_the_rounded_numbers():
    x, kernel = made()
    values, scale = rounded(kernel)
    outputs, stands_for = expected_product(x, kernel)
    assert keras.backend.standardize_dtype(values.dtype) == "int8"
    np.testing.assert_allclose(restored(values, scale), stands_for, atol=ATOL)
    np.testing.assert_allclose(
        int8_product(ops.convert_to_tensor(x), values, scale), outputs, atol=ATOL
    )
    # Half a step of each of the six products, of kernels and of inputs.
    assert np.abs(outputs - x @ kernel).max() < 6 * np.abs(x).max() * np.abs(kernel).max() / 127


def test_the_gradient_of_inputs_is_that_of_the_kernel_that_is_kept(gradients):
    x, kernel = made()
    values, scale = rounded(kernel)
    upstream = np.ones((5, 8), np.float32)

    def function(x):
        return int8_product(x, values, scale)

    (found,) = gradients(function, [ops.convert_to_tensor(x)], ops.convert_to_tensor(upstream))
    np.testing.assert_allclose(found, upstream @ expected_product(x, kernel)[1].T, atol=ATOL)


def test_a_dense_layer_is_that_of_keras():
    x, kernel = made()
    ours, theirs = Dense(8, name="ours"), keras.layers.Dense(8, name="theirs")
    for layer in (ours, theirs):
        layer.build((None, 6))
        layer.set_weights([kernel, np.arange(8, dtype=np.float32)])
        layer.quantize("int8")
    np.testing.assert_array_equal(ours(x), theirs(x))
    assert [v.path.split("/")[1] for v in ours.weights] == ["bias", "kernel", "kernel_scale"]


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qk_norm": True}])
def test_an_attention_computes_with_what_its_kernels_stand_for(options):
    tokens = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    layer = MultiHeadAttention(2, **options, name="attention")
    layer.build(tokens.shape)
    paths = {v.path for v in layer.weights}
    expected = ops.convert_to_numpy(layer(tokens))
    layer.quantize("int8")
    kernels = [v for v in layer.weights if v.path.endswith("_kernel")]
    assert [v.dtype for v in kernels] == ["int8"] * 4
    assert {v.path for v in layer.weights} - paths == {f"{v.path}_scale" for v in kernels}
    for kernel in kernels:
        assert not kernel.trainable
        np.testing.assert_array_equal(np.abs(ops.convert_to_numpy(kernel)).max(), 127)
    found = ops.convert_to_numpy(layer(tokens))
    # Four products of 8 bits after each other: each is off by about 1/127 of its size.
    assert 0 < np.abs(found - expected).max() < 4 / 127 * np.abs(expected).max()
    assert layer.quantization_mode == "int8"


def test_a_configuration_makes_a_quantised_block_again():
    tokens = np.random.default_rng(2).normal(size=(2, 5, 8)).astype(np.float32)
    block = EncoderBlock(2, 16, qk_norm=True, name="block")
    block.build(tokens.shape)
    for part in (block.attention, block.mlp.dense_2):
        part.quantize("int8")
    config = block.get_config()
    assert config["quantized_parts"] == ["attention", "mlp/dense_2"]
    again = EncoderBlock.from_config(config)
    again.build(tokens.shape)
    again.set_weights(block.get_weights())
    np.testing.assert_array_equal(again(tokens), block(tokens))
    alone = MultiHeadAttention.from_config(block.attention.get_config())
    alone.build(tokens.shape)
    assert alone.query_kernel.dtype == "int8"
    assert alone.query_norm.gamma.dtype == "float32"
    with pytest.raises(ValueError, match="must name parts of 'block'. Received: 'mlp/dense_3'"):
        EncoderBlock.from_config({**config, "quantized_parts": ["mlp/dense_3"]}).build(tokens.shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int4",), "quantised to 'int8' .* Received: 'int4'"),
        (("float8",), "Received: 'float8'"),
        (
            (None, keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)),
            "Received: 'int8' with others",
        ),
    ],
)
@pytest.mark.parametrize("make", [lambda: MultiHeadAttention(2), lambda: Dense(8)])
def test_other_modes_are_refused(make, arguments, message):
    layer = make()
    layer.build((None, 5, 8))
    with pytest.raises(NotImplementedError, match=message):
        layer.quantize(*arguments)
