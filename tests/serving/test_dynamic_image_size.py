"""Exports of models whose height and width are free."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_vit

PARITY = 1e-5  # other fusions of the same operations
SIZES = ((16, 16), (8, 20), (32, 12))

_PROGRAM = """
import sys
import numpy as np
import keras_vit

model = keras_vit.create_model(
    "ViT-Ti/16", num_classes=3, image_size=16, patch_size=4, hidden_size=32, mlp_dim=48,
    num_heads=2, depth=2, num_registers=1, position_resize="bicubic_antialias",
    dynamic_image_size=True,
)
rng = np.random.default_rng(0)
for variable in model.weights:
    variable.assign(rng.normal(size=variable.shape) * 0.1)
version = keras_vit.export(model, sys.argv[1], attention=True, jit=sys.argv[2] == "jit")
expected = {}
for size in ((16, 16), (8, 20), (32, 12)):
    images = np.random.default_rng(sum(size)).uniform(-1, 1, (2, *size, 3)).astype("float32")
    expected[f"{size[0]},{size[1]}"] = model.predict_on_batch(images)
np.savez(sys.argv[1] + "/expected.npz", **expected)
print(version)
"""


@pytest.mark.parametrize(
    ("backend", "jit"),
    [
        ("tensorflow", "plain"),
        pytest.param("tensorflow", "jit", marks=pytest.mark.slow),
        pytest.param("jax", "plain", marks=pytest.mark.slow),
    ],
)
def test_the_saved_model_of_a_dynamic_model_takes_any_size(backend, jit, tmp_path, assert_close):
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), jit],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = done.stdout.splitlines()[-1]
    loaded = tf.saved_model.load(folder)
    tensors = loaded.signatures["tensors"]
    assert tensors.structured_input_signature[1]["tensors"].shape == (None, None, None, 3)
    with np.load(tmp_path / "expected.npz") as file:
        for size in SIZES:
            rng = np.random.default_rng(sum(size))
            images = rng.uniform(-1, 1, (2, *size, 3)).astype("float32")
            logits = tensors(tensors=tf.constant(images))["logits"].numpy()
            assert_close(logits, file[f"{size[0]},{size[1]}"], PARITY)
    for size in ((17, 16), (0, 16), (16, 2)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"patches of \(4, 4\) fill"):
            tensors(tensors=tf.zeros((1, *size, 3)))
    with open(f"{folder}/assets/model.json", encoding="utf-8") as file:
        assert json.load(file)["config"]["dynamic_image_size"] is True


@pytest.mark.tensorflow_only
@pytest.mark.slow
def test_an_onnx_file_of_a_dynamic_model_has_the_prepared_size(tmp_path):
    pytest.importorskip("tf2onnx")
    from keras_vit.serving.onnx_litert import export_onnx, onnx_runner

    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=3, image_size=32, depth=1, dynamic_image_size=True
    )
    model.get_layer("head").kernel.assign(
        np.random.default_rng(0).normal(size=model.get_layer("head").kernel.shape)
    )
    export_onnx(model, tmp_path / "model.onnx")
    run = onnx_runner(tmp_path / "model.onnx")
    assert run(np.zeros((1, 32, 32, 3), "float32"))["logits"].shape == (1, 3)
