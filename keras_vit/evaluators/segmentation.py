"""Mean intersection over union and pixel accuracy of a segmentation, each pixel counted once.

Shapes: H W pixels, K classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_vit.data.segmenter import Segmenter
from keras_vit.models.segmentation import SegmentationModel


def confusion_matrix(labels, predictions, num_classes):
    """How often each class was taken for each.

    Args:
        labels: Integers, of any shape; what is not in [0, K) counts nowhere.
        predictions: Integers in [0, K), of the same shape.
        num_classes: K.

    Returns:
        int64 (K, K): rows are labels, columns predictions.

    >>> confusion_matrix(np.array([0, 1, 255]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    labels = np.asarray(labels, np.int64).ravel()
    predictions = np.asarray(predictions, np.int64).ravel()
    counted = (labels >= 0) & (labels < num_classes)
    pairs = labels[counted] * num_classes + predictions[counted]
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def scores(confusion):
    """What a confusion matrix says.

    A class that occurs neither in labels nor in predictions has no intersection over union, nan,
    and is left out of the mean; one that is only predicted has 0.

    Args:
        confusion: int (K, K) of `confusion_matrix`.

    Returns:
        A dict of `mean_iou`, `pixel_accuracy` and `mean_class_accuracy`, numbers in [0, 1], and
        `iou` and `class_accuracy`, float64 (K,).

    >>> scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))["iou"].tolist()
    [0.75, 0.8, nan]
    """
    right = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(1), confusion.sum(0)
    if not labelled.sum():
        raise ValueError("no pixel of the split has a class. Received: 0 labelled pixels")
    union = labelled + predicted - right
    with np.errstate(invalid="ignore"):
        iou = right / np.where(union > 0, union, np.nan)
        class_accuracy = right / np.where(labelled > 0, labelled, np.nan)
    return {
        "mean_iou": float(np.nanmean(iou)),
        "pixel_accuracy": float(right.sum() / labelled.sum()),
        "mean_class_accuracy": float(np.nanmean(class_accuracy)),
        "iou": iou,
        "class_accuracy": class_accuracy,
    }


def evaluate_masks(
    model, dataset, split="test", batch_size=8, *, data_dir=None, between=None, segmenter=None
):
    """Segments every image of a split once, at its own size, and compares.

    Args:
        model: `keras_vit.models.segmentation.SegmentationModel`.
        dataset: A folder or name, as `keras_vit.data.catalog.masks.resolve_masks` takes it, or a
            `DatasetInfo` of it.
        split: Name of the split.
        batch_size: Windows in one call of the model; no result depends on it.
        data_dir: Where TFDS keeps its data sets.
        between: Called before each call of the model, or None.
        segmenter: `keras_vit.data.segmenter.Segmenter` of the model; None makes one.

    Returns:
        A dict of `mean_iou`, `pixel_accuracy`, `mean_class_accuracy`, `iou` (class name -> number,
        None for a class that occurs nowhere), `count` (images) and `pixels` (those with a class).

    Raises:
        TypeError: For a model that is no segmentation.
        ValueError: If the model's classes are not those of the data set, or for an unknown split.
        tf.errors.InvalidArgumentError: For an image or a mask that cannot be read; names it.
    """
    from keras_vit.data import mask_pipeline
    from keras_vit.data.catalog.masks import resolve_masks

    if not isinstance(model, SegmentationModel):
        kind = type(model).__name__ if isinstance(model, keras.Model) else repr(model)
        raise TypeError(f"`model` must be a SegmentationModel. Received: {kind}")
    info = resolve_masks(dataset, data_dir)
    info.num_examples(split)
    names = model.class_names
    if model.head.num_classes != info.num_classes or names not in (None, tuple(info.class_names)):
        raise ValueError(
            f"the model must have the {info.num_classes} classes of {info.name!r}, in their order. "
            f"Received: {model.head.num_classes} classes, {', '.join((names or ('unnamed',))[:3])}"
        )
    confusion = np.zeros((info.num_classes,) * 2, np.int64)
    labels = []

    def images():
        pairs = mask_pipeline.evaluation_pairs(info, split, model.preprocessing)
        for image, mask in pairs.as_numpy_iterator():
            labels.append(mask)
            yield image

    for predictions in (segmenter or Segmenter(model, batch_size)).masks(images(), between):
        confusion += confusion_matrix(labels.pop(0), predictions, info.num_classes)
    found = scores(confusion)
    iou = [None if np.isnan(value) else float(value) for value in found["iou"]]
    return {
        **{key: found[key] for key in ("mean_iou", "pixel_accuracy", "mean_class_accuracy")},
        "iou": dict(zip(info.class_names, iou, strict=True)),
        "count": info.num_examples(split),
        "pixels": int(confusion.sum()),
    }


@dataclasses.dataclass
class MeanIoU:
    """Evaluator of a segmentation on a split, each pixel counted once.

    Args:
        split: Name of the split.
        dataset: As in `evaluate_masks`; None is the data set of the training that it is given to.
        batch_size: Windows in one call of the model; no result depends on it.
        name: Name of the evaluator; by default the split's.
        between: Called before each call of the model, or None.
    """

    split: str = "validation"
    _: dataclasses.KW_ONLY
    dataset: Any = None
    batch_size: int = 8
    name: str = ""
    between: Callable[[], None] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        self.name = self.name or self.split
        self._made = None, None  # a model, and what was made for it

    def run(self, model):
        """Returns `mean_iou`, `pixel_accuracy`, `mean_class_accuracy` and each `iou_CLASS`."""
        if self._made[0] is not model:
            self._made = model, Segmenter(model, self.batch_size)
        found = evaluate_masks(
            *(model, self.dataset, self.split),
            between=self.between,
            segmenter=self._made[1],
        )
        iou = {f"iou_{name}": value for name, value in found["iou"].items() if value is not None}
        return {key: v for key, v in found.items() if isinstance(v, float)} | iou
