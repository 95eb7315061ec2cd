"""Positions of every kind against hand-worked cases and the reference data."""

import keras
import numpy as np
import pytest

from keras_vit.layers import (
    LearnedPositionEmbedding,
    LearnedPositionEmbedding2D,
    MultiHeadAttention,
    SinCosPositionEmbedding,
)
from keras_vit.layers.attention import attention_probabilities
from keras_vit.layers.positions import relative_logits, sincos_positions
from tests.conftest import REFERENCE

# Float32 against the reference's float64.
RELATIVE_TOLERANCE = 1e-5


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


def test_2d_positions_have_the_column_first_and_leading_tokens_their_own(check_layer_contract):
    layer = LearnedPositionEmbedding2D((2, 3))
    outputs = keras.ops.convert_to_numpy(layer(np.zeros((1, 7, 4), "float32")))[0]
    x, y, leading = layer.get_weights()
    assert (x.shape, y.shape, leading.shape) == ((3, 2), (2, 2), (1, 4))
    np.testing.assert_array_equal(outputs[0], leading[0])
    # Row 1, column 2 of the grid is the last token.
    np.testing.assert_array_equal(outputs[-1], np.concatenate([x[2], y[1]]))
    np.testing.assert_array_equal(outputs[2], np.concatenate([x[1], y[0]]))
    check_layer_contract(LearnedPositionEmbedding2D, {"grid": (2, 3)}, (2, 7, 4), (2, 7, 4))
    with pytest.raises(ValueError, match="even number of features. Received: 6 tokens of 5"):
        LearnedPositionEmbedding2D((2, 3)).build((None, 6, 5))


@pytest.mark.parametrize("kind", ["shared", "per_head"])
def test_relative_attention_is_the_reference(kind, assert_close):
    with np.load(REFERENCE / "evaluation/positions/relative.npz") as file:
        data = {key: file[key] for key in file.files}
    layer = MultiHeadAttention(3, relative_positions=kind)
    layer.build(data["inputs"].shape)
    for variable in layer.weights:
        name = variable.path.rsplit("/")[-1]
        key = f"table_{kind}" if name == "relative_embedding" else name
        variable.assign(data[key])
    assert_close(layer(data["inputs"]), data[f"{kind}/output"], RELATIVE_TOLERANCE)
    probabilities = layer.attention_probabilities(data["inputs"])
    assert_close(probabilities, data[f"{kind}/attention"], RELATIVE_TOLERANCE)
    query, _ = layer._query_and_key(keras.ops.convert_to_tensor(data["inputs"]), None)
    bias = relative_logits(query * 4**-0.5, layer.relative_embedding)
    assert_close(bias, data[f"{kind}/bias"], RELATIVE_TOLERANCE)


def test_relative_attention_contract_and_its_unknown_kinds(check_layer_contract):
    arguments = {"num_heads": 2, "relative_positions": "per_head"}
    check_layer_contract(MultiHeadAttention, arguments, (2, 5, 8), (2, 5, 8))
    with pytest.raises(ValueError, match="`relative_positions` must be one of"):
        MultiHeadAttention(2, relative_positions="both")


def test_a_table_of_zeros_changes_nothing():
    query = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype("float32")
    with_zeros = attention_probabilities(query, query, np.zeros((5, 4), "float32"))
    np.testing.assert_array_equal(with_zeros, attention_probabilities(query, query))
