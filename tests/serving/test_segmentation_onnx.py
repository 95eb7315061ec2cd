"""Segmentation models in ONNX: logits of windows, and masks of pictures with NumPy alone."""

import json
import runpy

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.cli import main
from keras_vit.data.images import windows
from keras_vit.data.segmenter import Segmenter
from keras_vit.errors import ExportError
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel
from keras_vit.serving import numpy_preprocess, onnx_litert
from keras_vit.serving.onnx_litert import export_segmentation_onnx, onnx_runner
from tests import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.tensorflow_only

# Of the largest logit: float32 in another order.
LOGITS = 1e-5
SIZES = ((16, 16), (9, 31), (50, 20), (33, 47))


def make(decoder, image_size=(16, 12), **rule):
    backbone = tiny.make_model(image_size=image_size)
    backbone.preprocessing = Preprocessing(image_size=image_size, **rule)
    head = SegmentationHead(num_classes=5, decoder=decoder, decoder_depth=1, window_stride=(10, 7))
    model = SegmentationModel(backbone, head, class_names=["a", "b", "c", "d", "e"])
    rng = np.random.default_rng(0)
    for variable in model.get_layer("decoder").weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


@pytest.fixture(scope="module", params=["linear", "mask"])
def exported(request, tmp_path_factory):
    model = make(request.param, resize="short_side", resize_to=(24, 24))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return model, path, export_segmentation_onnx(model, path)


def test_logits_and_masks_of_windows_are_the_models(exported):
    model, path, report = exported
    assert report.difference < LOGITS
    run = onnx_runner(path)
    for batch in (1, 4):
        tensors = np.random.default_rng(batch).uniform(-1, 1, (batch, 16, 12, 3))
        tensors = tensors.astype(np.float32)
        expected = np.asarray(model(tensors, training=False))
        found = run(tensors)
        assert found["logits"].shape == (batch, 16, 12, 5)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found["logits"] / scale, expected / scale, atol=LOGITS)
        assert found["mask"].dtype == np.uint8
        np.testing.assert_array_equal(found["mask"], found["logits"].argmax(-1))


def test_the_program_beside_it_gives_the_masks_of_evaluation(exported):
    model, path, _ = exported
    program = runpy.run_path(f"{path}.preprocess.py")
    about = json.loads((path.parent / "model.onnx.json").read_text())
    run = onnx_runner(path)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    for picture, expected in zip(pictures, Segmenter(model, 2).masks(pictures), strict=True):
        tensors, places = program["windows"](
            picture, about["preprocessing"], about["window_stride"]
        )
        mask = program["merged_mask"](run(tensors)["logits"], places)
        assert mask.shape == picture.shape[:2]
        # Pixels whose two highest logits are equal but for rounding.
        assert np.mean(mask != expected) <= 2e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "rule", [{}, {"resize": "short_side", "resize_to": (20, 20)}, {"resize_to": (24, 30)}]
)
def test_windows_are_those_of_evaluation(size, rule):
    rule = Preprocessing(image_size=(16, 12), value_range=(0, 1), **rule)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected, corners, scaled = windows.windows_of(tf.constant(picture), rule, (10, 7))
    found, places = numpy_preprocess.windows(picture, vars(rule), (10, 7))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(places["corners"], corners)
    logits = np.random.default_rng(1).normal(size=(len(found), 16, 12, 4)).astype(np.float32)
    merged = windows.merged(tf.constant(logits), corners, scaled)
    mask = windows.classes_at(merged, size).numpy()
    assert np.mean(numpy_preprocess.merged_mask(logits, places) != mask) <= 2e-3


def test_the_file_describes_itself(exported):
    model, path, _ = exported
    about = json.loads((path.parent / "model.onnx.json").read_text())
    (metadata,) = [p.value for p in onnx.load(path).metadata_props if p.key == "keras_vit"]
    assert json.loads(metadata) == about
    assert about["format"] == onnx_litert.SEGMENTATION_ONNX
    assert about["class_names"] == ["a", "b", "c", "d", "e"]
    assert about["window_stride"] == [10, 7]
    assert about["head"]["decoder"] == model.head.decoder


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    model = make("linear")
    with pytest.raises(ValueError, match="must name each of the 5 classes. Received: 1"):
        export_segmentation_onnx(model, tmp_path / "a.onnx", class_names=["a"])
    monkeypatch.setattr(onnx_litert, "_noise", lambda model: [np.ones((1, 16, 12, 3), np.float32)])
    monkeypatch.setitem(onnx_litert.TOLERANCES, "float32", -1.0)
    with pytest.raises(ExportError, match="does not reproduce the model, nothing was written"):
        export_segmentation_onnx(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_one_and_refuses_what_it_lacks(tmp_path, capsys):
    make("linear").save(tmp_path / "model.keras")
    command = ["export", f"--model={tmp_path / 'model.keras'}", "--format=onnx"]
    assert main.main([*command, str(tmp_path / "model.onnx")]) == 0
    assert "ONNX, opset 17" in capsys.readouterr().out
    assert onnx_runner(tmp_path / "model.onnx")(np.zeros((1, 16, 12, 3), np.float32))
    for flags, message in (
        (["--quantization=int8"], "--quantization is not of a segmentation model"),
        (["--max_pixels=9"], "--max_pixels is not of a segmentation model in ONNX"),
        (["--format=litert"], "exported with --format=saved_model or onnx"),
        ([], "exists"),
    ):
        assert main.main([*command, *flags, str(tmp_path / "model.onnx")]) != 0
        assert message in capsys.readouterr().err
