"""Segmenter's decoders: reference logits at full size, and the mask transformer's definition."""

import keras
import numpy as np

from keras_vit.layers.decoders import MaskTransformer, UpsampledLogits
from tests.conftest import REFERENCE

# float32 products of 20 to 24 numbers, summed in another order.
TOLERANCE = 1e-5


def test_linear_logits_at_full_size_are_the_reference():
    with np.load(REFERENCE / "evaluation/dense/segmenter_linear.npz") as data:
        data = dict(data)
    height, width = data["padded"].shape[1:3]
    grid = (height // data["patch"], width // data["patch"])
    dense = keras.layers.Dense(data["kernel"].shape[-1], name="decoder")
    features = data["tokens"].reshape(len(data["tokens"]), *grid, -1)
    dense.build(features.shape)
    dense.set_weights([data["kernel"], data["bias"]])
    logits = dense(features)
    np.testing.assert_allclose(logits, data["logits_grid"], atol=TOLERANCE)
    full = UpsampledLogits((height, width), data["image"].shape[1:3], name="logits")(logits)
    np.testing.assert_allclose(full, data["logits"], atol=TOLERANCE)


def _softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _norm(x, gamma, beta):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def _gelu(x):
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def _mask_transformer(values, features, num_classes, depth):
    """The definition in float64: rstrudel/segmenter, `MaskTransformer.forward`."""
    w = {path: value.astype(np.float64) for path, value in values.items()}
    batch, height, width, size = features.shape
    x = features.reshape(batch, -1, size) @ w["projection/kernel"] + w["projection/bias"]
    classes = np.broadcast_to(w["class_embeddings"], (batch, *w["class_embeddings"].shape))
    x = np.concatenate([x, classes], 1)
    for i in range(depth):
        b = {k.removeprefix(f"block_{i}/"): v for k, v in w.items() if k.startswith(f"block_{i}/")}
        y = _norm(x, b["norm_1/gamma"], b["norm_1/beta"])
        q, k, v = (
            np.einsum("btd,dkh->bkth", y, b[f"attention/{n}_kernel"])
            + b[f"attention/{n}_bias"][None, :, None]
            for n in ("query", "key", "value")
        )
        weights = _softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
        y = np.einsum("bkth,khd->btd", weights @ v, b["attention/out_kernel"])
        x = x + y + b["attention/out_bias"]
        y = _norm(x, b["norm_2/gamma"], b["norm_2/beta"])
        y = _gelu(y @ b["mlp/dense_1/kernel"] + b["mlp/dense_1/bias"])
        x = x + y @ b["mlp/dense_2/kernel"] + b["mlp/dense_2/bias"]
    x = _norm(x, w["norm/gamma"], w["norm/beta"])
    patches, classes = x[:, : height * width], x[:, height * width :]
    patches, classes = patches @ w["patch_projection"], classes @ w["class_projection"]
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    classes /= np.linalg.norm(classes, axis=-1, keepdims=True)
    masks = _norm(patches @ classes.transpose(0, 2, 1), w["mask_norm/gamma"], w["mask_norm/beta"])
    return masks.reshape(batch, height, width, num_classes)


def test_the_mask_transformer_is_its_definition():
    rng = np.random.default_rng(0)
    layer = MaskTransformer(4, depth=2, num_heads=3, mlp_dim=20, hidden_size=12, name="decoder")
    features = rng.normal(size=(2, 3, 5, 10)).astype(np.float32)
    layer.build(features.shape)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.4)
    values = {v.path.partition("decoder/")[2] or v.path: np.asarray(v) for v in layer.weights}
    values = {path: keras.ops.convert_to_numpy(v) for path, v in values.items()}
    expected = _mask_transformer(values, features.astype(np.float64), 4, 2)
    np.testing.assert_allclose(layer(features), expected, atol=TOLERANCE)


def test_the_mask_transformer_keeps_its_configuration():
    layer = MaskTransformer(4, depth=1, num_heads=2, dropout=0.1, name="decoder")
    again = MaskTransformer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 3, 5, 8)) == (None, 3, 5, 4)
