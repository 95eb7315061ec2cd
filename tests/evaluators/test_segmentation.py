"""Mean IoU against the reference, and each pixel counted once."""

import numpy as np
import pytest

from keras_vit.evaluators import segmentation
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel
from tests import tiny
from tests.conftest import REFERENCE
from tests.data import mask_folder


def test_the_scores_are_the_reference():
    with np.load(REFERENCE / "evaluation/dense/mean_iou.npz") as data:
        data = dict(data)
    confusion = segmentation.confusion_matrix(
        data["labels"], data["predictions"], int(data["num_classes"])
    )
    np.testing.assert_array_equal(confusion, data["confusion"])
    found = segmentation.scores(confusion)
    for name in ("iou", "mean_iou", "pixel_accuracy", "class_accuracy", "mean_class_accuracy"):
        np.testing.assert_array_equal(found[name], data[name], err_msg=name)


def test_absent_classes_are_left_out_and_predicted_ones_are_zero():
    found = segmentation.scores(np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(found["iou"], [2 / 3, 0, np.nan])
    assert found["mean_iou"] == pytest.approx(1 / 3)


def test_a_split_without_labels_is_an_error():
    with pytest.raises(ValueError, match="no pixel"):
        segmentation.scores(np.zeros((2, 2), int))


def _model(class_names=mask_folder.CLASSES):
    backbone = tiny.make_model(image_size=16)
    head = SegmentationHead(num_classes=len(class_names), decoder="mask", window_stride=(8, 8))
    return SegmentationModel(backbone, head, class_names)


def test_each_pixel_counts_once_at_any_batch_size(tmp_path):
    folder = mask_folder.make(tmp_path / "data", splits=("test",))
    model = _model()
    found = [segmentation.evaluate_masks(model, folder, "test", size) for size in (1, 5, 32)]
    assert found[0] == found[1] == found[2]
    sizes = ((16, 16), (19, 27), (24, 16))
    assert found[0]["pixels"] == sum((height - 1) * width for height, width in sizes)
    assert found[0]["count"] == 3


def test_other_classes_are_an_error(tmp_path):
    folder = mask_folder.make(tmp_path / "data", splits=("test",))
    with pytest.raises(ValueError, match="the model must have the 3 classes"):
        segmentation.evaluate_masks(_model(("a", "b", "c")), folder, "test")
    with pytest.raises(TypeError, match="SegmentationModel"):
        segmentation.evaluate_masks(tiny.make_model(), folder, "test")
