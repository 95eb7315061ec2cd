"""What the variables of an export hold, and what that costs its numbers."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.serving.forward import StoredVariable, quantize_int8, tensorflow_forward
from keras_vit.serving.options import ServingOptions


@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7), (0,)), ((6, 2, 3), (0,)), ((3, 3, 4, 5), (0, 1, 2))]
)
def test_quantize_int8_is_off_by_half_a_step_of_each_channel(shape, axes):
    value = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    quantized, scale = quantize_int8(value, axes)
    assert quantized.dtype == np.int8
    assert scale.shape == tuple(1 if i in axes else n for i, n in enumerate(shape))
    np.testing.assert_array_equal(np.abs(quantized).max(axis=axes), 127)
    assert (np.abs(quantized * scale - value) <= 0.5001 * scale).all()


def test_quantize_int8_zeros_stay_zeros():
    quantized, scale = quantize_int8(np.zeros((4, 2), np.float32), (0,))
    assert not quantized.any()
    assert np.isfinite(scale).all()


def test_stored_variable_keeps_the_models_own():
    model = keras_vit.create_model("ViT-Ti/16", image_size=16, depth=1)
    for variable in model.variables:
        assert StoredVariable(variable).stored is variable.value


@pytest.mark.parametrize("name", ["ViT-Ti/16", "BiT-R50x1"])
@pytest.mark.parametrize(
    ("options", "stored_dtype", "tolerance"),
    [
        ({"dtype": "bfloat16"}, tf.bfloat16, 5e-2),
        ({"quantization": "int8"}, tf.int8, 5e-2),
        ({"jit": True}, tf.float32, 3e-5),
        ({"dtype": "bfloat16", "quantization": "int8"}, tf.int8, 1e-1),
    ],
)
def test_tensorflow_forward_reduced_is_near_the_model(
    make_model, name, options, stored_dtype, tolerance
):
    small = {"depth": 1} if name.startswith("ViT") else {"stage_depths": (1,)}
    model = make_model(name, **small)
    functions, variables = tensorflow_forward(model, ServingOptions(**options))
    kernels = {
        v.path: s.stored
        for v, s in zip(model.variables, variables, strict=True)
        if v.path.endswith("kernel")
    }
    head = kernels.pop("head/kernel")
    assert head.dtype == tf.float32
    assert {variable.dtype for variable in kernels.values()} == {stored_dtype}
    images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    expected = model.predict_on_batch(images)
    logits = tf.function(functions["logits"])(tf.constant(images)).numpy()
    assert logits.dtype == np.float32
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 0 < difference <= tolerance or options == {"jit": True} and difference <= tolerance


def test_export_int8_is_a_quarter_and_says_so(model, pngs, tmp_path, exported, expected_logits):
    folder = keras_vit.export(model, tmp_path, quantization="int8", jit=True)
    variables = "variables/variables.data-00000-of-00001"
    assert (folder / variables).stat().st_size < 0.45 * (exported / variables).stat().st_size
    loaded = tf.saved_model.load(str(folder))
    scores = loaded.signatures["serving_default"](image_bytes=tf.constant(pngs))["scores"]
    expected = expected_logits(model, pngs)
    assert np.abs(scores - expected).max() <= 5e-2 * np.abs(expected).max()
    description = json.loads((folder / "assets" / "model.json").read_text())
    assert (description["quantization"], description["jit"]) == ("int8", True)
