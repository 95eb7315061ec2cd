"""Gradients that keep the inputs alone, against those of automatic differentiation."""

import numpy as np
import pytest
from keras import ops

from keras_vit.layers import EncoderBlock
from keras_vit.layers.encoder import DERIVATIVES, GELUS
from keras_vit.layers.recompute import LayerNormalization, elementwise

ROUNDING = 2e-6  # float32 sums of some terms
# Automatic differentiation of tanh cancels where the derivative is near zero.
CANCELLATION = 1e-5


@pytest.mark.parametrize("name", GELUS)
def test_gelu_in_training_is_the_same_function_with_the_same_gradient(
    name, gradients, assert_close
):
    x = ops.convert_to_tensor(np.linspace(-12, 12, 4001, dtype="float32"))
    upstream = ops.linspace(-1.0, 1.0, 4001, dtype="float32")

    def in_training(x):
        return elementwise(GELUS[name], DERIVATIVES[name], x, training=True)

    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (in_training(x), GELUS[name](x))))
    (expected,) = gradients(GELUS[name], (x,), upstream)
    (actual,) = gradients(in_training, (x,), upstream)
    assert_close(actual, expected, CANCELLATION)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_norm_in_training_is_keras_layer_norm(dtype, gradients, assert_close):
    layer = LayerNormalization(epsilon=1e-6, dtype=dtype)
    layer.build((None, 7, 16))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=16), rng.normal(size=16)])
    x, upstream = (
        ops.convert_to_tensor(rng.normal(1.0, 3.0, size=(5, 7, 16)), layer.compute_dtype)
        for _ in range(2)
    )
    plain, saving = ([lambda x, t=t: layer(x, training=t)][0] for t in (False, True))
    # bfloat16: the last rounding, of values up to some ten.
    rounding = ROUNDING if dtype == "float32" else 2**-4
    assert_close(saving(x), plain(x), rounding)
    assert_close(
        gradients(saving, (x,), upstream)[0], gradients(plain, (x,), upstream)[0], rounding
    )


def test_block_in_training_gives_all_its_weights_the_gradients_of_the_plain_block(
    weight_gradients, assert_close
):
    block = EncoderBlock(num_heads=2, mlp_dim=16)
    block.build((None, 5, 8))
    rng = np.random.default_rng(1)
    block.set_weights([rng.normal(size=w.shape) * 0.3 for w in block.weights])
    tokens = ops.convert_to_tensor(rng.normal(size=(2, 5, 8)).astype("float32"))
    plain = weight_gradients(block, tokens, training=False)
    assert len(plain) == len(block.weights)
    # All together, because the bias of the keys has a gradient of zero but for rounding.
    plain = np.concatenate([gradient.ravel() for gradient in plain])
    for remat in (False, True):
        block.remat = remat
        saving = weight_gradients(block, tokens, training=True)
        assert_close(np.concatenate([g.ravel() for g in saving]), plain, CANCELLATION)
