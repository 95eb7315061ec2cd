"""Attention inside windows against loops over pixels in numpy."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.layers import EncoderBlock
from keras_vit.layers.windows import WindowedBlock

HEADS, WIDTH = 2, 8


def made(grid, window, leading, relative=False, **options):
    """A block of random weights and the same one in windows."""
    keras.utils.set_random_seed(1)
    block = EncoderBlock(HEADS, 12, **options)
    layer = WindowedBlock(block, grid, window, relative)
    layer.build((None, leading + grid[0] * grid[1], WIDTH))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        if "seed" not in weight.path:
            weight.assign(rng.normal(0, 0.4, weight.shape))
    return block, layer


def tokens_for(grid, leading):
    shape = (2, leading + grid[0] * grid[1], WIDTH)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def expected_attention(block, layer, x, leading):
    """Each token by itself, in float64; what lies beyond the grid has normed features of zero."""
    arrays = {w.path.split("/")[-1]: np.asarray(w, np.float64) for w in block.attention.weights}

    def projected(name, features):
        return np.einsum("d,dke->ke", features, arrays[f"{name}_kernel"]) + arrays[f"{name}_bias"]

    (height, width), (u, v) = layer.grid, layer.window
    out = np.zeros(x.shape)
    for image in range(len(x)):
        at = {
            (y, c): x[image, leading + y * width + c] for y in range(height) for c in range(width)
        }
        for token in range(x.shape[1]):
            y, c = divmod(token - leading, width)
            if token < leading:
                places = list(at)
            else:
                top, left = y // u * u, c // v * v
                places = [(top + i, left + j) for i in range(u) for j in range(v)]
            keys = [x[image, i] for i in range(leading)]
            keys += [at.get(place, np.zeros(WIDTH)) for place in places]
            query = projected("query", x[image, token])
            for head in range(HEADS):
                logits = np.array([query[head] @ projected("key", key)[head] for key in keys])
                logits /= np.sqrt(WIDTH // HEADS)
                if layer.relative_positions and token >= leading:
                    for number, (row, column) in enumerate(places, start=leading):
                        logits[number] += query[head] @ np.asarray(layer.rows)[y - row + u - 1]
                        logits[number] += (
                            query[head] @ np.asarray(layer.columns)[c - column + v - 1]
                        )
                value = sum(
                    p * projected("value", key)[head]
                    for p, key in zip(softmax(logits), keys, strict=True)
                )
                out[image, token] += value @ arrays["out_kernel"][head]
    return out + arrays["out_bias"]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("leading", [0, 1])
@pytest.mark.parametrize("grid", [(4, 6), (3, 5)])  # the second is filled up with zeros
def test_patches_attend_in_their_window_as_in_loops(grid, leading, relative):
    block, layer = made(grid, (2, 3), leading, relative)
    x = tokens_for(grid, leading)
    found = ops.convert_to_numpy(layer._attention(ops.convert_to_tensor(x)))
    expected = expected_attention(block, layer, x.astype(np.float64), leading)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("leading", [0, 2])
def test_one_window_over_the_grid_is_the_block_itself(leading):
    block, layer = made((3, 4), (3, 4), leading)
    x = tokens_for((3, 4), leading)
    np.testing.assert_allclose(layer(x), block(x), atol=1e-5)


def test_positions_are_zero_at_first_and_change_nothing_then():
    block, layer = made((4, 4), (2, 2), 1)
    relative = WindowedBlock(block, (4, 4), (2, 2), relative_positions=True)
    x = tokens_for((4, 4), 1)
    np.testing.assert_allclose(relative(x), layer(x), atol=1e-6)
    assert [tuple(w.shape) for w in (relative.rows, relative.columns)] == [(3, 4), (3, 4)]


def test_training_with_recomputation_draws_the_same_dropout(weight_gradients):
    found = []
    for remat in (False, True):
        block, layer = made((2, 3), (2, 2), 1, True, dropout=0.2, attention_dropout=0.3)
        block.remat = remat
        found.append(weight_gradients(layer, ops.convert_to_tensor(tokens_for((2, 3), 1)), True))
    for plain, recomputed in zip(*found, strict=True):
        np.testing.assert_allclose(recomputed, plain, atol=1e-4)


def test_a_configuration_makes_the_layer_again():
    _, layer = made((2, 2), (1, 2), 0, True)
    layer.block.attention.trainable = False
    config = json.loads(json.dumps(layer.get_config()))
    copy = WindowedBlock.from_config(config)
    copy.build((None, 4, WIDTH))
    assert json.loads(json.dumps(copy.get_config())) == config
    copy.set_weights(layer.get_weights())
    x = tokens_for((2, 2), 0)
    np.testing.assert_array_equal(copy(x), layer(x))
    assert len(copy.trainable_weights) == len(layer.trainable_weights) < len(layer.weights)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="between 1 and the grid"):
        WindowedBlock(EncoderBlock(2, 8), (2, 2), (3, 2))
    with pytest.raises(ValueError, match="without relative positions of its own"):
        WindowedBlock(EncoderBlock(2, 8, relative_positions="shared"), (2, 2), (2, 2))
