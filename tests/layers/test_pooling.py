"""Pooling against numpy."""

import keras
import numpy as np
import pytest

from keras_vit.layers import AttentionPooling, TokenPooling

ROUNDING = 2e-6  # float32 sums of some hundred terms


def test_token_pooling_takes_the_first_or_the_mean(assert_close):
    tokens = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    assert_close(TokenPooling("token")(tokens), tokens[:, 0], 0)
    assert_close(TokenPooling("mean")(tokens), tokens.mean(axis=1), ROUNDING)


def test_attention_pooling_is_the_probe_with_a_residual_mlp(assert_close):
    layer = AttentionPooling(num_heads=2, mlp_dim=12)
    tokens = np.random.default_rng(1).normal(size=(3, 5, 8)).astype("float32")
    actual = layer(tokens)
    probe = np.repeat(layer.get_weights()[0], 3, axis=0)
    pooled = layer.attention(tokens, query=probe)
    expected = keras.ops.convert_to_numpy(pooled + layer.mlp(layer.norm(pooled)))[:, 0]
    assert_close(actual, expected, ROUNDING)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_token_pooling_contract(check_layer_contract, pooling):
    check_layer_contract(TokenPooling, {"pooling": pooling}, (2, 5, 8), (2, 8))


def test_attention_pooling_contract(check_layer_contract):
    check_layer_contract(AttentionPooling, {"num_heads": 2, "mlp_dim": 6}, (2, 5, 8), (2, 8))


def test_token_pooling_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="must be one of .*'max'"):
        TokenPooling("max")


def test_patches_are_pooled_without_the_tokens_before_them():
    tokens = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    patches = tokens[:, 2:].mean(axis=1)
    expected = {
        "patch_mean": patches,
        "token_patch_mean": np.concatenate([tokens[:, 0], patches], axis=-1),
        "distillation_token": tokens[:, 1],
    }
    for pooling, values in expected.items():
        found = TokenPooling(pooling, num_leading_tokens=2)(tokens)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), values, atol=1e-6)
