"""ONNX and LiteRT files: what their own runtimes compute from them."""

import json
import logging
import os

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.errors import ExportError
from keras_vit.layers import attention
from keras_vit.serving import onnx_litert
from keras_vit.serving.onnx_litert import export_litert, export_onnx

MODELS = {
    "tanh": ("ViT-Ti/16", {"depth": 1}),
    # Made of erfc, which ONNX does not have.
    "exact": ("ViT-Ti/16", {"depth": 1, "gelu": "exact"}),
    "hybrid": ("R+ViT-Ti/16", {"depth": 1, "patch_size": 1}),
    "bit": ("BiT-R50x1", {"stage_depths": (1, 1)}),
}
# Of the largest logit, as the runtimes were seen to differ on small random models, and some more.
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "int8": 5e-2}


def relative_difference(model, logits, tensors):
    expected = model.predict_on_batch(tensors)
    return np.abs(logits - expected).max() / np.abs(expected).max()


def batch(size):
    return np.random.default_rng(size).uniform(-1, 1, (size, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", MODELS)
def test_export_onnx_gives_logits_of_predict(make_model, tmp_path, kind):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    name, overrides = MODELS[kind]
    model = make_model(name, **overrides)
    path = tmp_path / "model.onnx"
    report = export_onnx(model, path)
    assert report.format == "ONNX, opset 17"
    assert 0 < report.difference <= TOLERANCES["float32"]
    session = onnxruntime.InferenceSession(path)
    assert [tuple(value.shape) for value in session.get_inputs()] == [("batch", 32, 32, 3)]
    for size in (1, 2, 5):
        logits = session.run(["logits"], {"tensors": batch(size)})[0]
        assert relative_difference(model, logits, batch(size)) <= TOLERANCES["float32"]
    description = json.loads(session.get_modelmeta().custom_metadata_map["keras_vit"])
    assert description == json.loads((tmp_path / "model.onnx.json").read_text())
    assert description["class_names"] == list(model.class_names)


@pytest.mark.parametrize("calibrated", [False, True])
def test_export_onnx_int8_multiplies_integers(make_model, tmp_path, calibrated):
    """The kernels have 8 bits, and a quarter of the bytes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    model = make_model("ViT-Ti/16", depth=1)
    exports = {"float32": {}, "int8": {"quantization": "int8"}}
    if calibrated:
        exports["int8"]["calibration"] = [batch(size) for size in (3, 4)]
    handlers = list(logging.getLogger().handlers)
    for name, keywords in exports.items():
        report = export_onnx(model, tmp_path / name, **keywords)
        logits = onnx_litert.onnx_runner(tmp_path / name)(batch(5))["logits"]
        assert relative_difference(model, logits, batch(5)) <= TOLERANCES[name]
    assert 1e-4 < report.difference <= TOLERANCES["int8"]
    assert logging.getLogger().handlers == handlers
    graph = onnx.load(tmp_path / "int8").graph
    kinds = {array.name: array.data_type for array in graph.initializer}
    products = {"QuantizeLinear"} if calibrated else {"MatMulInteger"}
    assert products <= {node.op_type for node in graph.node}
    assert sum(kind == onnx.TensorProto.INT8 for kind in kinds.values()) >= 8  # of a block, and 2
    assert (tmp_path / "int8").stat().st_size < 0.35 * (tmp_path / "float32").stat().st_size
    assert json.loads((tmp_path / "int8.json").read_text())["storage"] == "int8"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"quantization": "int4"}, "`quantization` must be 'int8' or None. Received: 'int4'"),
        ({"calibration": []}, "`calibration` is of quantization='int8'"),
        ({"quantization": "int8", "calibration": []}, "`calibration` must have images"),
    ],
)
def test_export_onnx_refuses_what_it_does_not_know(model, tmp_path, keywords, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "model.onnx", **keywords)
    assert os.listdir(tmp_path) == []


def test_export_litert_of_many_tokens_computes_attention_at_once(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "BLOCKWISE_TOKENS", 4)
    report = export_litert(make_model("ViT-Ti/8", depth=1), tmp_path / "model.tflite")
    assert 0 < report.difference <= TOLERANCES["float32"]


def test_export_onnx_without_its_packages_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match="keras-vision-transformer\\[onnx\\]"):
        export_onnx(model, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "storage"),
    [("tanh", "float32"), ("exact", "float32"), ("tanh", "float16"), ("tanh", "int8")]
    + [("hybrid", "int8"), ("bit", "float32")],
)
def test_export_litert_gives_logits_of_predict(make_model, tmp_path, kind, storage):
    name, overrides = MODELS[kind]
    model = make_model(name, **overrides)
    path = tmp_path / "model.tflite"
    report = export_litert(model, path, storage=storage)
    assert 0 < report.difference <= TOLERANCES[storage]
    interpreter = tf.lite.Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    for size in (1, 5):
        logits = runner(tensors=batch(size))["logits"]
        assert relative_difference(model, logits, batch(size)) <= TOLERANCES[storage]
    description = json.loads((tmp_path / "model.tflite.json").read_text())
    assert (description["storage"], description["format"]) == (storage, "keras_vit.litert/1")


def test_export_litert_that_differs_is_not_written(model, tmp_path, monkeypatch):
    def prepared(*arguments):
        function, variables, description = original(*arguments)

        def wrong(tensors):
            return {name: 1.001 * value for name, value in function(tensors).items()}

        return tf.function(wrong, input_signature=function.input_signature), variables, description

    original = onnx_litert._prepared
    monkeypatch.setattr(onnx_litert, "_prepared", prepared)
    with pytest.raises(ExportError, match="does not reproduce the model"):
        export_litert(model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


def test_export_litert_unknown_storage_is_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="`storage` must be one of .*Received: 'int4'"):
        export_litert(model, tmp_path / "model.tflite", storage="int4")
