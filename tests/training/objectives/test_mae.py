"""The masked autoencoder against its public definition, written once more in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.layers.positions import sincos_positions
from keras_vit.training.objectives.mae import MaskedAutoencoder
from tests import tiny

TOLERANCE = 2e-5  # float32 through two small Transformers
P, HEADS, GRID = 4, 2, 4


def official_positions(width, grid):
    """`get_2d_sincos_pos_embed` with a class token, from its definition."""

    def of_axis(places):
        rates = 1.0 / 10000 ** (np.arange(width // 4) / (width / 4.0))
        angles = np.einsum("m,d->md", places.reshape(-1), rates)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    across, down = np.meshgrid(np.arange(grid, dtype="f8"), np.arange(grid, dtype="f8"))
    return np.concatenate(
        [np.zeros((1, width)), np.concatenate([of_axis(across), of_axis(down)], axis=1)]
    )


def norm(x, w, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}/gamma"] + w[f"{name}/beta"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(x, w, name):
    h = norm(x, w, f"{name}/norm_1")

    def project(part):
        y = h @ w[f"{name}/attention/{part}_kernel"].reshape(x.shape[-1], -1)
        y = y + w[f"{name}/attention/{part}_bias"].reshape(-1)
        return y.reshape(len(h), HEADS, -1).transpose(1, 0, 2)

    q, k, v = map(project, ("query", "key", "value"))
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    a = np.exp(logits - logits.max(-1, keepdims=True))
    a = (a / a.sum(-1, keepdims=True)) @ v
    a = a.transpose(1, 0, 2).reshape(len(h), -1)
    out = w[f"{name}/attention/out_kernel"].reshape(-1, x.shape[-1])
    x = x + a @ out + w[f"{name}/attention/out_bias"]
    h = norm(x, w, f"{name}/norm_2")
    h = gelu(h @ w[f"{name}/mlp/dense_1/kernel"] + w[f"{name}/mlp/dense_1/bias"])
    return x + h @ w[f"{name}/mlp/dense_2/kernel"] + w[f"{name}/mlp/dense_2/bias"]


def patchify(image):
    x = image.reshape(GRID, P, GRID, P, 3)
    return np.einsum("hpwqc->hwpqc", x).reshape(GRID**2, -1)


def official_loss(image, noise, w, width, decoder_width):
    """`forward` of one image: masked patches alone, pixels with the unbiased variance."""
    x = patchify(image) @ w["embedding/kernel"].reshape(-1, width) + w["embedding/bias"]
    positions = official_positions(width, GRID)
    x = x + positions[1:]
    shuffle = np.argsort(noise, kind="stable")
    restore = np.argsort(shuffle, kind="stable")
    num_kept = int(GRID**2 * (1 - 0.75))
    x = np.concatenate([w["cls/token"].reshape(1, -1) + positions[:1], x[shuffle[:num_kept]]])
    for i in range(2):
        x = block(x, w, f"encoderblock_{i}")
    x = norm(x, w, "encoder_norm")
    x = x @ w["decoder_embedding/kernel"] + w["decoder_embedding/bias"]
    masks = np.repeat(w["decoder_mask/token"][None], GRID**2 - num_kept, axis=0)
    x = np.concatenate([x[:1], np.concatenate([x[1:], masks])[restore]])
    x = x + official_positions(decoder_width, GRID)
    x = norm(block(x, w, "decoder_block_0"), w, "decoder_norm")
    predicted = (x @ w["decoder_pixels/kernel"] + w["decoder_pixels/bias"])[1:]
    target = patchify(image)
    variance = target.var(-1, keepdims=True, ddof=1)
    target = (target - target.mean(-1, keepdims=True)) / (variance + 1e-6) ** 0.5
    is_masked = restore >= num_kept
    return (((predicted - target) ** 2).mean(-1) * is_masked).sum() / is_masked.sum()


def test_loss_is_that_of_the_public_definition():
    model = tiny.make_model(image_size=16, depth=2, position_embedding="sincos2d_mae")
    objective = MaskedAutoencoder(decoder_hidden_size=24, decoder_depth=1, decoder_num_heads=HEADS)
    trained = objective.build(model, None)
    rng = np.random.default_rng(0)
    for variable in trained.trainable_variables:
        variable.assign(variable + rng.normal(size=variable.shape) * 0.1)
    images = rng.uniform(-1, 1, (3, 16, 16, 3)).astype("float32")
    seeds = [tf.constant([5, i]) for i in range(3)]
    pairs = [objective.targets(im, 0, s) for im, s in zip(images, seeds, strict=True)]
    x, y = tf.nest.map_structure(lambda *parts: np.stack(parts), *pairs)
    assert x["visible"].shape == (3, 4)
    assert y.shape == (3, 12, 48)
    weights = {v.path: keras.ops.convert_to_numpy(v).astype("f8") for v in trained.weights}
    noise = [np.array(tf.random.stateless_uniform((16,), seed)) for seed in seeds]
    expected = [official_loss(*pair, weights, 16, 24) for pair in zip(images, noise, strict=True)]
    received = float(objective.loss()(y, trained(x)))
    assert received == pytest.approx(np.mean(expected), rel=TOLERANCE)
    # The encoder has seen no pixel of the patches that are left out.
    hidden = images.copy()
    for i, places in enumerate(x["masked"]):
        for place in places:
            row, column = divmod(int(place), GRID)
            hidden[i, row * P : (row + 1) * P, column * P : (column + 1) * P] = 0.0
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(trained({**x, "images": hidden})),
        keras.ops.convert_to_numpy(trained(x)),
    )


def test_positions_are_those_of_the_public_definition():
    received = sincos_positions((GRID, GRID), 16, "mae")
    np.testing.assert_allclose(received, official_positions(16, GRID)[1:], atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="positions at the stem alone"):
        MaskedAutoencoder().build(tiny.make_model(position_embedding="relative"), None)
    with pytest.raises(ValueError, match="`decoder_hidden_size` must be a multiple"):
        MaskedAutoencoder(decoder_hidden_size=20, decoder_num_heads=3)
