"""The encoder block against numpy, and what acts in training only."""

import math

import keras
import numpy as np
import pytest

from keras_vit.layers import EncoderBlock, MlpBlock
from keras_vit.layers.encoder import GELUS, gelu_exact, gelu_tanh
from keras_vit.layers.regularization import drop_branch, dropout, seed_generator

ROUNDING = 2e-6  # float32 sums of some hundred terms


def layer_norm(x, gamma, beta, epsilon=1e-6):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gamma + beta


def numpy_gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_gelu_forms_are_their_formulas():
    x = np.linspace(-6, 6, 1001)
    exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    x32 = x.astype("float32")
    tanh_actual = keras.ops.convert_to_numpy(gelu_tanh(keras.ops.convert_to_tensor(x32)))
    exact_actual = keras.ops.convert_to_numpy(gelu_exact(keras.ops.convert_to_tensor(x32)))
    np.testing.assert_allclose(tanh_actual, numpy_gelu_tanh(x), atol=1e-6)
    np.testing.assert_allclose(exact_actual, exact, atol=1e-6)
    assert np.abs(tanh_actual - exact_actual).max() == pytest.approx(4.73e-4, rel=0.01)


def test_block_is_attention_and_mlp_with_norms_before_and_residuals(assert_close):
    block = EncoderBlock(num_heads=2, mlp_dim=16)
    tokens = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    block.build(tokens.shape)
    rng = np.random.default_rng(1)
    block.set_weights([rng.normal(size=w.shape) * 0.3 for w in block.weights])
    weights = {v.path.split("/", 1)[1]: keras.ops.convert_to_numpy(v.value) for v in block.weights}

    x = layer_norm(tokens, weights["norm_1/gamma"], weights["norm_1/beta"]).astype("float32")
    x = tokens + keras.ops.convert_to_numpy(block.attention(x))
    y = layer_norm(x, weights["norm_2/gamma"], weights["norm_2/beta"])
    y = y @ weights["mlp/dense_1/kernel"] + weights["mlp/dense_1/bias"]
    y = numpy_gelu_tanh(y) @ weights["mlp/dense_2/kernel"] + weights["mlp/dense_2/bias"]
    assert_close(block(tokens), x + y, ROUNDING)


def test_block_contract(check_layer_contract):
    arguments = {"num_heads": 2, "mlp_dim": 16, "gelu": "exact"}
    check_layer_contract(EncoderBlock, arguments, (2, 5, 8), (2, 5, 8))


def test_mlp_contract(check_layer_contract):
    check_layer_contract(MlpBlock, {"mlp_dim": 6, "dropout": 0.1}, (2, 5, 8), (2, 5, 8))


def test_mlp_initialisers_are_the_official_ones():
    mlp = MlpBlock(mlp_dim=3072)
    mlp.build((None, 5, 768))
    kernel, bias = mlp.get_weights()[:2]
    bound = math.sqrt(6 / (768 + 3072))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert np.std(bias) == pytest.approx(1e-6, rel=0.1)


def test_mlp_of_an_unknown_gelu_is_refused():
    with pytest.raises(ValueError, match=r"must be one of \['exact', 'quick', 'tanh'\].*'relu'"):
        MlpBlock(4, gelu="relu")


@pytest.mark.parametrize("function", [dropout, drop_branch])
def test_regularization_keeps_the_expectation_and_rests_outside_training(function):
    seeds = seed_generator(0.25)
    x = keras.ops.ones((4000, 3))
    dropped = keras.ops.convert_to_numpy(function(x, 0.25, seeds, True))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.03)  # three standard deviations
    assert function(x, 0.25, seeds, False) is x
    assert function(x, 0.0, None, True) is x


def test_drop_branch_drops_whole_examples():
    dropped = drop_branch(keras.ops.ones((100, 7, 3)), 0.5, seed_generator(0.5), True)
    spread = keras.ops.convert_to_numpy(dropped).reshape(100, -1)
    assert (spread.min(axis=1) == spread.max(axis=1)).all()
    assert 20 < (spread[:, 0] == 0).sum() < 80


def test_seed_generator_exists_only_where_something_is_drawn():
    assert seed_generator(0.0, 0.0) is None
    assert EncoderBlock(2, 4, stochastic_depth=0.1).seeds is not None
    with pytest.raises(ValueError, match=r"must be in \[0, 1\). Received: 1.0"):
        seed_generator(0.0, 1.0)


def test_quick_gelu_and_a_gated_mlp_are_their_formulas():
    x = np.linspace(-4, 4, 9, dtype="float32")
    quick = keras.ops.convert_to_numpy(GELUS["quick"](x))
    np.testing.assert_allclose(quick, x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    layer = MlpBlock(6, gated=True)
    tokens = np.random.default_rng(0).normal(size=(1, 3, 4)).astype("float32")
    found = keras.ops.convert_to_numpy(layer(tokens))
    first, second = (
        [keras.ops.convert_to_numpy(w) for w in dense.weights]
        for dense in (layer.dense_1, layer.dense_2)
    )
    hidden = tokens @ first[0] + first[1]
    gate, value = hidden[..., :6], hidden[..., 6:]
    expected = (gate / (1 + np.exp(-gate)) * value) @ second[0] + second[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
