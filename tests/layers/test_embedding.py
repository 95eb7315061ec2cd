"""Patches, class token and positions against hand-worked cases and a convolution."""

import keras
import numpy as np
import pytest

from keras_vit.layers import (
    ClassToken,
    LearnedPositionEmbedding,
    PatchEmbedding,
    SinCosPositionEmbedding,
)
from keras_vit.layers.embedding import sincos_positions

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


def test_class_token_is_zero_at_first_and_stands_before_the_patches():
    tokens = np.ones((2, 3, 4), "float32")
    outputs = keras.ops.convert_to_numpy(ClassToken()(tokens))
    np.testing.assert_array_equal(outputs[:, 0], 0)
    np.testing.assert_array_equal(outputs[:, 1:], 1)


def test_class_token_contract(check_layer_contract):
    check_layer_contract(ClassToken, {}, (2, 3, 4), (2, 4, 4))


def test_learned_positions_are_added_and_drawn_narrowly():
    layer = LearnedPositionEmbedding()
    outputs = keras.ops.convert_to_numpy(layer(np.ones((2, 50, 60), "float32")))
    (positions,) = layer.get_weights()
    np.testing.assert_allclose(outputs[1], 1 + positions[0], rtol=1e-6)
    assert np.std(positions) == pytest.approx(0.02, rel=0.05)


def test_learned_positions_contract(check_layer_contract):
    check_layer_contract(LearnedPositionEmbedding, {}, (2, 3, 4), (2, 3, 4))


def test_sincos_positions_are_the_formula_worked_by_hand():
    # D = 8: frequencies 1 and 1/10000; the patch in row 1, column 2 of a 2x3 grid is the last.
    x, y = 2.0, 1.0
    expected = [np.sin(x), np.sin(x * 1e-4), np.cos(x), np.cos(x * 1e-4)]
    expected += [np.sin(y), np.sin(y * 1e-4), np.cos(y), np.cos(y * 1e-4)]
    np.testing.assert_allclose(sincos_positions((2, 3), 8)[-1], expected, rtol=1e-6)


def test_sincos_layer_adds_nothing_to_tokens_before_the_patches():
    outputs = SinCosPositionEmbedding((1, 2))(np.zeros((1, 3, 8), "float32"))
    outputs = keras.ops.convert_to_numpy(outputs)[0]
    np.testing.assert_array_equal(outputs[0], 0)
    np.testing.assert_array_equal(outputs[1:], sincos_positions((1, 2), 8))


def test_sincos_layer_contract(check_layer_contract):
    check_layer_contract(SinCosPositionEmbedding, {"grid": (2, 2)}, (2, 5, 8), (2, 5, 8))


@pytest.mark.parametrize("hidden_size", [6, 4])
def test_sincos_positions_of_a_wrong_width_are_refused(hidden_size):
    with pytest.raises(ValueError, match="multiple of 4 and at least 8"):
        sincos_positions((2, 2), hidden_size)
