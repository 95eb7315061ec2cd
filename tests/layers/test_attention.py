"""Attention against a numpy computation of Appendix A of arXiv:2010.11929v2."""

import keras
import numpy as np
import pytest

from keras_vit.layers import MultiHeadAttention
from keras_vit.layers.attention import attention_probabilities

ROUNDING = 2e-6  # float32 sums of some hundred terms


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def numpy_attention(weights, inputs, query):
    """Head by head, as the equations read."""
    q_kernel, q_bias, k_kernel, k_bias, v_kernel, v_bias, out_kernel, out_bias = weights
    total = out_bias
    for head in range(q_kernel.shape[1]):
        q = query @ q_kernel[:, head] + q_bias[head]
        k = inputs @ k_kernel[:, head] + k_bias[head]
        v = inputs @ v_kernel[:, head] + v_bias[head]
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        total = total + softmax(scores) @ v @ out_kernel[head]
    return total


@pytest.fixture
def attention():
    layer = MultiHeadAttention(num_heads=3)
    layer.build((None, 5, 12))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def test_attention_of_itself_is_the_papers_equations(attention, assert_close):
    inputs = np.random.default_rng(2).normal(size=(2, 5, 12)).astype("float32")
    weights = [w.astype("float64") for w in attention.get_weights()]
    assert_close(attention(inputs), numpy_attention(weights, inputs, inputs), ROUNDING)


def test_attention_of_a_query_is_the_papers_equations(attention, assert_close):
    rng = np.random.default_rng(3)
    inputs, query = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 1, 12))
    weights = [w.astype("float64") for w in attention.get_weights()]
    actual = attention(inputs.astype("float32"), query=query.astype("float32"))
    assert_close(actual, numpy_attention(weights, inputs, query), ROUNDING)


def test_attention_probabilities_sum_to_one_and_follow_the_largest_score():
    query = np.zeros((1, 1, 2, 2), "float32")
    query[0, 0, 0] = [100.0, 0.0]
    key = np.array([[[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]], "float32")
    query, key = (keras.ops.convert_to_tensor(x) for x in (query, key))
    probabilities = keras.ops.convert_to_numpy(attention_probabilities(query, key))
    np.testing.assert_allclose(probabilities[0, 0], [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-6)


def test_attention_dropout_acts_in_training_alone():
    layer = MultiHeadAttention(num_heads=2, attention_dropout=0.5)
    inputs = np.random.default_rng(4).normal(size=(2, 6, 8)).astype("float32")
    still = [keras.ops.convert_to_numpy(layer(inputs, training=False)) for _ in range(2)]
    moving = [keras.ops.convert_to_numpy(layer(inputs, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert (moving[0] != moving[1]).any()


def test_attention_kernels_are_drawn_with_the_fans_of_matrices():
    layer = MultiHeadAttention(num_heads=12)
    layer.build((None, 4, 768))
    bound = np.sqrt(6 / (768 + 768))  # 0.0625; Keras gives GlorotUniform of this shape 0.0101
    for kernel in layer.get_weights()[0:8:2]:
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert np.std(kernel) == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_attention_contract(check_layer_contract):
    check_layer_contract(MultiHeadAttention, {"num_heads": 2}, (2, 5, 8), (2, 5, 8))


def test_attention_with_heads_that_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="must divide the number of features.*num_heads=5"):
        MultiHeadAttention(num_heads=5).build((None, 4, 12))
