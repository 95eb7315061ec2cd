"""Attention against a numpy computation of Appendix A of arXiv:2010.11929v2."""

import keras
import numpy as np
import pytest

from keras_vit.layers import MultiHeadAttention, attention
from keras_vit.layers.attention import attend, attention_probabilities, blockwise_attention
from keras_vit.layers.regularization import seed_generator

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
def layer():
    layer = MultiHeadAttention(num_heads=3)
    layer.build((None, 5, 12))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def test_attention_of_itself_is_the_papers_equations(layer, assert_close):
    inputs = np.random.default_rng(2).normal(size=(2, 5, 12)).astype("float32")
    weights = [w.astype("float64") for w in layer.get_weights()]
    assert_close(layer(inputs), numpy_attention(weights, inputs, inputs), ROUNDING)


def test_attention_of_a_query_is_the_papers_equations(layer, assert_close):
    rng = np.random.default_rng(3)
    inputs, query = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 1, 12))
    weights = [w.astype("float64") for w in layer.get_weights()]
    actual = layer(inputs.astype("float32"), query=query.astype("float32"))
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


def plain_attention(query, key, value):
    probabilities = keras.ops.cast(attention_probabilities(query, key), value.dtype)
    return keras.ops.matmul(probabilities, value)


def random_heads(tokens, keys, dtype="float32"):
    """Query (B, k, T, d), key and value (B, k, S, d), and a gradient of the output."""
    rng = np.random.default_rng(5)
    shapes = [(2, 3, n, 8) for n in (tokens, keys, keys, tokens)]
    return [keras.ops.convert_to_tensor(rng.normal(size=shape), dtype) for shape in shapes]


# One block, blocks that fill the queries, blocks that do not, and blocks of one query.
@pytest.mark.parametrize("block_size", [64, 25, 16, 1])
def test_blockwise_attention_is_plain_attention_and_so_are_its_gradients(
    block_size, gradients, assert_close
):
    *inputs, upstream = random_heads(50, 20)

    def blockwise(*inputs):
        return blockwise_attention(*inputs, block_size=block_size)

    expected = gradients(plain_attention, inputs, upstream)
    actual = gradients(blockwise, inputs, upstream)
    assert_close(blockwise(*inputs), plain_attention(*inputs), ROUNDING)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, ROUNDING)


def test_blockwise_attention_of_large_scores_is_finite(gradients):
    query, key, value, upstream = random_heads(12, 12)
    inputs = (query * 100.0, key * 100.0, value)

    def blockwise(*inputs):
        return blockwise_attention(*inputs, block_size=5)

    for gradient in gradients(blockwise, inputs, upstream):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_blockwise_attention_in_half_precision_rounds_as_plain_attention(
    dtype, gradients, assert_close
):
    *inputs, upstream = random_heads(30, 30, dtype)

    def blockwise(*inputs):
        return blockwise_attention(*inputs, block_size=8)

    # Of values up to three: two roundings of the dtype.
    rounding = {"float16": 2**-9, "bfloat16": 2**-6}[dtype]
    for ours, theirs in zip(
        gradients(blockwise, inputs, upstream),
        gradients(plain_attention, inputs, upstream),
        strict=True,
    ):
        assert_close(ours, theirs, rounding)


@pytest.fixture
def used(monkeypatch):
    """The names of the ways that attention took, with a threshold of ten tokens."""
    names = []

    def noting(name):
        function = getattr(attention, name)
        return lambda *args: names.append(name) or function(*args)

    for name in ("blockwise_attention", "_fused_attention"):
        monkeypatch.setattr(attention, name, noting(name))
    monkeypatch.setattr(attention, "BLOCKWISE_TOKENS", 10)
    return names


def test_attention_takes_blocks_from_the_threshold_on(used, assert_close):
    few, many = random_heads(9, 9)[:3], random_heads(10, 10)[:3]
    assert_close(attend(*few), plain_attention(*few), ROUNDING)
    assert not used
    assert_close(attend(*many), plain_attention(*many), ROUNDING)
    assert used == ["blockwise_attention"]


def test_attention_of_one_query_takes_no_blocks(used):
    attend(*random_heads(1, 20)[:3])
    assert not used


def test_attention_with_dropout_takes_no_blocks_in_training(used):
    seeds = seed_generator(0.5)
    attend(*random_heads(12, 12)[:3], 0.5, seeds, training=True)
    assert not used
    attend(*random_heads(12, 12)[:3], 0.5, seeds, training=False)
    assert used == ["blockwise_attention"]


def test_attention_in_half_precision_on_gpus_of_jax_is_the_fused_kernel(
    used, monkeypatch, assert_close
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    inputs = random_heads(12, 12, "bfloat16")[:3]
    assert_close(attend(*inputs), plain_attention(*inputs), 2**-6)
    assert used == ["_fused_attention"]
    attend(*random_heads(12, 12)[:3], 0.5, seed_generator(0.5), training=True)
    assert len(used) == 1
