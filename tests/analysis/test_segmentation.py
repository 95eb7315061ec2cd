"""Inspections of segmentation models: what is under the decoder, and the masks."""

import json

import keras
import numpy as np
import pytest

from keras_vit.analysis import report
from keras_vit.analysis.analyze import analyze
from keras_vit.analysis.inspection import inspect
from keras_vit.analysis.pictures import Photographs
from keras_vit.analysis.segmentation import masks_of, shares_of, under_decoder
from keras_vit.cli import main
from keras_vit.models.cost import count_decoder_multiply_adds, count_multiply_adds
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel

NAMES = ("sky", "tree", "road")


@pytest.fixture(scope="module")
def make(make_model):
    def make(decoder="mask", family="vit", **options):
        backbone, images = make_model(family)
        if decoder == "mask":
            options = {"decoder_depth": 1, "decoder_num_heads": 2, **options}
        head = SegmentationHead(num_classes=3, decoder=decoder, **options)
        model = SegmentationModel(backbone, head, NAMES)
        rng = np.random.default_rng(0)
        for variable in model.get_layer("decoder").weights:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        return model, backbone, images

    return make


@pytest.fixture(scope="module")
def found(make):
    model, _, images = make()
    photographs = Photographs(names=("a.jpg", "b.jpg", "c.jpg"), images=images)
    return model, inspect(model, photographs=photographs)


def test_the_measures_are_those_of_what_is_under_the_decoder(make):
    model, backbone, images = make()
    ours, expected = analyze(under_decoder(model), images), analyze(backbone, images)
    for name in ("attention_distance", "rollout", "last_block"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    assert ours.grad_cam is None
    assert ours.outputs.shape == (3, 4, 3, 24)


def test_masks_are_the_models_and_shares_are_of_their_pixels(found, make):
    model, inspected = found
    expected = np.asarray(model.predict_on_batch(inspected.photographs.images)).argmax(-1)
    np.testing.assert_array_equal(inspected.masks, expected)
    assert inspected.top is None
    for mask, shares in zip(expected, inspected.shares, strict=True):
        assert dict(shares) == {NAMES[i]: np.mean(mask == i) for i in np.unique(mask)}
        assert sum(share for _, share in shares) == pytest.approx(1)
    assert shares_of(expected[0], None)[0][0] in ("0", "1", "2")
    assert masks_of(make()[1], inspected.photographs.images) is None


def test_facts_name_the_decoder_and_count_it(found):
    model, inspected = found
    facts = inspected.facts
    assert facts["family"] == "SegmentationModel"
    assert facts["parameters"] == model.count_params()
    assert facts["decoder"]["decoder"] == "mask"
    assert facts["architecture"]["hidden_size"] == 24
    own = count_decoder_multiply_adds(model.backbone_config, model.head)
    assert facts["multiply_adds"] == count_multiply_adds(model.backbone_config) + own


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("family", ["vit", "bit"])
@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "linear"},
        {"decoder": "mask"},
        {"decoder": "mask", "decoder_depth": 2, "decoder_hidden_size": 16},
    ],
)
def test_multiply_adds_of_a_decoder_are_those_of_its_matrix_products(make, options, family):
    import tensorflow as tf

    model, _, _ = make(family=family, **options)
    layer = model.get_layer("decoder")
    part = keras.Model(layer.input, layer.output)
    signature = [tf.TensorSpec((1, *layer.input.shape[1:]), tf.float32)]
    graph = tf.function(part, input_signature=signature).get_concrete_function().graph
    products = 0
    for operation in graph.get_operations():
        if operation.type in ("MatMul", "BatchMatMulV2", "Conv2D"):
            first = operation.inputs[0].shape
            name = "transpose_a" if operation.type == "MatMul" else "adj_x"
            inner = first[-2] if operation.get_attr(name) else first[-1]
            products += int(np.prod(operation.outputs[0].shape)) * inner
    assert count_decoder_multiply_adds(model.backbone_config, model.head) == products


@pytest.mark.parametrize("decoder", ["linear", "mask"])
@pytest.mark.parametrize("family", ["vit", "hybrid", "bit"])
def test_every_family_has_a_page(make, family, decoder):
    model, _, images = make(decoder, family)
    photographs = Photographs(names=("a.jpg", "b.jpg", "c.jpg"), images=images)
    page = report.render([inspect(model, photographs=photographs)]).decode()
    for text in (
        "SegmentationModel",
        "Classes in the mask",
        "in the color of each pixel",
        "Decoder",
    ):
        assert text in page
    assert "predictions" not in page
    assert "Grad-CAM" not in page


def test_json_and_picture_have_the_masks(found):
    _, inspected = found
    value = json.loads(report.render([inspected, inspected], "json"))
    image = value["models"][0]["images"][0]
    assert image["predictions"] is None
    assert [row["class_name"] for row in image["mask"]] == [n for n, _ in inspected.shares[0]]
    assert value["models"][0]["decoder"]["num_classes"] == 3
    assert report.render([inspected], "png").startswith(b"\x89PNG")


def test_the_command_takes_a_run_and_a_file_beside_a_model_that_classifies(
    found, make_model, tmp_path, capsys
):
    from PIL import Image

    model, _ = found
    run = tmp_path / "run"
    run.mkdir()
    model.save(run / "model.keras")
    metrics = {"test": {"mean_iou": 0.5, "count": 3}, "dataset": "masks"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "history.csv").write_text("step,loss,validation/mean_iou\n1,2.0,0.25\n2,1.0,0.5\n")
    make_model("vit")[0].save(tmp_path / "classes.keras")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    images, against = f"--images={tmp_path / 'photos'}", f"--against={tmp_path / 'classes.keras'}"
    output = f"--output={tmp_path / 'report.html'}"
    assert main.main(["inspect", str(run), images, against, output]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "mean_iou" in page
    assert "Classes in the mask" in page
    assert "predictions" in page  # of the other
    capsys.readouterr()
    assert main.main(["inspect", str(run / "model.keras"), "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["class_names"] == list(NAMES)
