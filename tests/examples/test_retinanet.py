"""examples/retinanet.py: KerasHub's detector on our pyramid trains one step."""

import importlib.util
import pathlib

import numpy as np
import pytest

from tests import tiny

pytest.importorskip("keras_hub", reason="keras-hub is not installed")

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "retinanet.py"


def test_a_step_changes_the_backbone_and_the_heads():
    spec = importlib.util.spec_from_file_location("retinanet", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    images, truth = example.made_up_boxes((64, 64))
    left, top, right, bottom = truth["boxes"][0, 0].astype(int)
    assert (images[0, top:bottom, left:right] == 1).all()
    model = tiny.make_model(image_size=64, patch_size=16, depth=2)
    before = model.get_layer("encoderblock_0").get_weights()
    losses, detector = example.train_one_step(model, window=2, channels=8)
    assert {"bbox_regression_loss", "cls_logits_loss"} <= set(losses)
    assert all(np.isfinite(loss) for loss in losses.values())
    after = model.get_layer("encoderblock_0").get_weights()
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    outputs = detector(images)
    # Nine anchors at each place of the strides 8, 16, 32 and 64.
    number = 9 * (8 * 8 + 4 * 4 + 2 * 2 + 1)
    assert outputs["cls_logits"].shape == (2, number, 2)
    assert outputs["bbox_regression"].shape == (2, number, 4)
    with pytest.raises(ValueError, match="patches must be of 16 px"):
        example.detector(tiny.make_model(), 2)
