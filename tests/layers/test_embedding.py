"""Patches and the tokens before them against hand-worked cases and a convolution."""

import keras
import numpy as np
import pytest

from keras_vit.layers import (
    ClassToken,
    MaskToken,
    PatchEmbedding,
    RegisterTokens,
)

ROUNDING = 2e-6  # float32 sums of some hundred terms


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (9, 14)], ids=str)
def test_patch_embedding_is_a_strided_convolution_without_padding(size, assert_close):
    layer = PatchEmbedding(7, (4, 3))
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    actual = layer(images)
    expected = keras.ops.conv(images, layer.kernel, strides=(4, 3), padding="valid")
    expected = keras.ops.convert_to_numpy(expected + layer.bias)
    assert_close(actual, expected, ROUNDING)


def test_patch_embedding_contract(check_layer_contract):
    arguments = {"hidden_size": 5, "patch_size": (4, 2)}
    check_layer_contract(PatchEmbedding, arguments, (2, 8, 8, 3), (2, 2, 4, 5))


def test_images_of_another_number_of_channels_are_named_as_such():
    layer = PatchEmbedding(8, (4, 4))
    layer.build((None, 8, 8, 3))
    with pytest.raises(ValueError, match=r"expected axis -1 of input shape to have value 3"):
        layer(np.zeros((1, 8, 8, 1), "float32"))


def test_class_token_is_zero_at_first_and_stands_before_the_patches():
    tokens = np.ones((2, 3, 4), "float32")
    outputs = keras.ops.convert_to_numpy(ClassToken()(tokens))
    np.testing.assert_array_equal(outputs[:, 0], 0)
    np.testing.assert_array_equal(outputs[:, 1:], 1)


def test_class_token_contract(check_layer_contract):
    check_layer_contract(ClassToken, {}, (2, 3, 4), (2, 4, 4))


def test_registers_come_after_the_tokens_before_them(check_layer_contract):
    check_layer_contract(RegisterTokens, {"num_registers": 2, "position": 1}, (2, 5, 8), (2, 7, 8))
    layer = RegisterTokens(2, 1)
    tokens = np.arange(12, dtype="float32").reshape(1, 3, 4)
    layer.build(tokens.shape)
    registers = np.full((1, 2, 4), -1, "float32")
    layer.tokens.assign(registers)
    expected = np.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(tokens)), expected)


def test_a_mask_token_is_kept_and_changes_nothing():
    layer = MaskToken()
    tokens = np.ones((1, 3, 4), "float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(tokens)), tokens)
    assert [w.shape for w in layer.non_trainable_weights] == [(1, 4)]
