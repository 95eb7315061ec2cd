"""Accuracy and cross-entropy of a classifier on a split, each image counted exactly once.

Shapes: B batch, C classes.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_vit.data.catalog import rows as table
from keras_vit.data.tasks import MULTILABEL, REGRESSION
from keras_vit.evaluators.own_data import resolve_for
from keras_vit.evaluators.real import any_label, with_real_labels
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of
from keras_vit.models.task import task_of

_WORDNET_ID = re.compile(r"n\d{8}")
_TOP_K = 5


@dataclasses.dataclass
class OnSplit:
    """Base of evaluators that run a model over a split, each image counted once.

    A subclass has `task`, what the labels must be (None: any), and `measure_batches(model,
    batches)`, which returns a dict from key to number.

    Args:
        split: Name of the split.
        dataset: As in `evaluate`; None is the data set of the training that it is given to.
        batch_size: Images in one call of the model; no result depends on it.
        name: Name of the evaluator; by default the split's.
        between: Called before each batch, or None.
    """

    split: str = "validation"
    _: dataclasses.KW_ONLY
    dataset: Any = None
    batch_size: int = 64
    name: str = ""
    between: Callable[[], None] | None = dataclasses.field(default=None, repr=False)
    task = None

    def __post_init__(self):
        self.name = self.name or self.split
        self._batches = None

    def run(self, model):
        """Returns a dict from key to number."""

        self.dataset = resolve_for(model, self.dataset, self.split, task=self.task)
        if self._batches is None:
            self._batches = evaluation_batches(
                model, self.dataset, self.split, self.batch_size, repeated=True
            )
        return self.measure_batches(model, self._batches)


@dataclasses.dataclass
class Classification(OnSplit):
    """Evaluator of accuracy and loss on a split.

    `run` returns `accuracy`, `loss` and, with fewer classes than the model, `top5_accuracy`.

    Args:
        split, dataset, batch_size, name, between: As in `OnSplit`.
    """

    def measure_batches(self, model, batches):
        """What `evaluate_batches` returns, but for what is only counted."""
        classes = scored_classes(self.dataset, self.split)
        metrics = evaluate_batches(model, batches, classes, self.between)
        return {key: value for key, value in metrics.items() if isinstance(value, float)}


def evaluate(
    model,
    dataset,
    split="test",
    batch_size=64,
    *,
    data_dir=None,
    real_labels=None,
    preprocessing=None,
    class_names=None,
):
    """Classifies every image of a split once, or predicts its labels or values.

    Args:
        model: functional `keras.Model` from images to (B, C) logits: one of this package or cut
            from one, optionally with `class_names`.
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, a `DatasetInfo`,
            or data of your own, a dict of splits or the split itself: (images, labels), a
            `tf.data.Dataset` or a `keras.utils.PyDataset`.  Their labels are numbers of logits, or
            names of the model's classes.
        split: the split's name.
        batch_size: images in one call of the model; no result depends on it.
        data_dir: where TFDS keeps its data sets.
        real_labels: the path of an official `real.json`, to take its labels in the place of
            "imagenet2012"'s.
        preprocessing: `keras_vit.Preprocessing` for a model that does not tell its own.
        class_names: the model's classes in the order of its logits; None takes those that it has.
            Where they are the data set's in another order, they are matched by name; where there
            are none, the data set's order is assumed, and a warning says so.

    Returns:
        A dict of `accuracy` (share of the images whose class has the highest logit), `loss` (mean
        softmax cross-entropy in nats) and `count` (number of images).

        Where an image may have several labels (ReaL, ObjectNet), any of them is right, images
        without one are left out of `count` and counted as `unlabelled`, and there is no loss.
        Of a model of several labels or of values: what
        `keras_vit.evaluators.multilabel.measure` or `keras_vit.evaluators.regression.measure`
        returns, and `count`.

        Where a data set has some of the model's classes only (ImageNet-A, ImageNet-R, ObjectNet),
        the highest is sought among these, `classes` is their number, and `top5_accuracy` is added.

    Raises:
        ValueError: if the model's classes are not those of the data set, for an unknown split, or
            for ReaL labels that do not fit.
        tf.errors.InvalidArgumentError: for an image that is not decoded; the message names it.
    """
    from keras_vit.data import pipeline  # TensorFlow, needed on every backend from here on

    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    model = network_of(model)
    task = task_of(model).kind
    dataset = resolve_for(
        model, dataset, split, task=task, data_dir=data_dir, class_names=class_names
    )
    if task in _MEASURES:
        measure = importlib.import_module(_MEASURES[task])
        return measure.evaluate(
            model, dataset, split, batch_size, preprocessing=preprocessing, class_names=class_names
        )
    if real_labels is not None:
        dataset = with_real_labels(dataset, real_labels)
    order = class_order(model, dataset, class_names)
    rule = preprocessing_of(model, preprocessing)
    batches = pipeline.evaluation_dataset(dataset, split, rule, batch_size=batch_size)
    return evaluate_batches(model, batches, scored_classes(dataset, split), order=order)


# What is no classification -> the module that measures it.
_MEASURES = {
    MULTILABEL: "keras_vit.evaluators.multilabel",
    REGRESSION: "keras_vit.evaluators.regression",
}


def scored_classes(info, split):
    """The classes that an image of a split may be, int (n,); None if they are all there."""
    if info.evaluation != table.SHARED_CLASSES:
        return None
    labels = np.unique(info.source.labels(split))
    return labels[labels >= 0]


def evaluation_batches(model, info, split, batch_size, *, repeated=False, preprocessing=None):
    """The batches of a split as a model wants them, for `evaluate_batches`.

    Args:
        model, info, split, batch_size, preprocessing: as in `evaluate`.
        repeated: as in `keras_vit.data.pipeline.evaluation_dataset`.

    Raises:
        ValueError: as in `evaluate`.
    """
    from keras_vit.data import pipeline

    check_classes(model, info)
    preprocessing = preprocessing_of(model, preprocessing)
    return pipeline.evaluation_dataset(
        info, split, preprocessing, batch_size=batch_size, repeated=repeated
    )


def evaluate_batches(model, batches, classes=None, between=None, order=None):
    """What `evaluate` returns, for a `tf.data.Dataset` of (images, labels, mask).

    Args:
        model: as in `evaluate`.
        batches: labels are integers (B,), or (B, K) filled up with -1, or floats (B, C), the shares
            of the classes: there a class with the largest share is right.
        classes: the classes to choose from, integers (n,); None takes all.
        between: called before each batch, or None.
        order: the logit of each class, integers (C,), as `class_order` returns it.
    """
    correct, correct_of_top, loss, count, num_unlabelled = 0, 0, 0.0, 0, 0
    spec = batches.element_spec[1]
    has_shares = spec.dtype.is_floating
    several = spec.shape.rank == 2 and not has_shares
    for images, labels, mask in batches.as_numpy_iterator():
        if between is not None:
            between()
        logits = np.asarray(model.predict_on_batch(images), np.float64)  # (B, C)
        logits, labels = logits[mask > 0], labels[mask > 0]
        logits = logits if order is None else logits[:, order]
        if classes is not None:
            logits = among(logits, classes)
        if has_shares:
            loss += float(np.sum(cross_entropy_of_shares(logits, labels)))
            is_largest = labels == labels.max(axis=-1, keepdims=True)
            rows = np.where(is_largest, np.arange(labels.shape[-1]), -1)  # (B, C)
        else:
            rows = labels if several else labels[:, np.newaxis]  # (B, K)
        num_labelled = int((rows >= 0).any(axis=-1).sum())
        count += num_labelled
        num_unlabelled += len(rows) - num_labelled
        # The first of equally high logits, as argmax has it.
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :_TOP_K]
        correct += int(any_label(best[:, :1], rows).sum())
        correct_of_top += int(any_label(best, rows).sum())
        if not several and not has_shares:
            loss += float(np.sum(cross_entropy(logits, labels)))
    if not count:
        raise ValueError("no image of the split has a label. Received: 0 labelled images")
    metrics = {"accuracy": correct / count}
    metrics |= {"unlabelled": num_unlabelled} if several else {"loss": loss / count}
    if classes is not None:
        metrics |= {"top5_accuracy": correct_of_top / count, "classes": len(classes)}
    return metrics | {"count": count}


def among(logits, classes):
    """Logits (B, C) with minus infinity for all but the given classes, integers (n,).

    >>> among(np.array([[3.0, 1.0, 2.0]]), np.array([1, 2])).tolist()
    [[-inf, 1.0, 2.0]]
    """
    chosen = np.full_like(logits, -np.inf)
    chosen[:, classes] = logits[:, classes]
    return chosen


def cross_entropy(logits, labels):
    """Softmax cross-entropy of each example, in nats.

    Args:
        logits: float (B, C).
        labels: integers (B,) in [0, C).

    Returns:
        float (B,).

    >>> cross_entropy(np.zeros((1, 4)), np.array([2])).round(4).tolist()
    [1.3863]
    """
    highest = np.max(logits, axis=-1, keepdims=True)
    log_sum = np.log(np.sum(np.exp(logits - highest), axis=-1)) + highest[:, 0]
    return log_sum - logits[np.arange(len(labels)), labels]


def cross_entropy_of_shares(logits, shares):
    """Softmax cross-entropy of each example to the shares of its classes, in nats.

    Args:
        logits: Floats (B, C).
        shares: Floats (B, C), which sum to 1.

    Returns:
        Floats (B,).

    >>> cross_entropy_of_shares(np.zeros((1, 4)), np.array([[0.5, 0.5, 0, 0]])).round(4).tolist()
    [1.3863]
    """
    highest = np.max(logits, axis=-1, keepdims=True)
    log_sums = np.log(np.sum(np.exp(logits - highest), axis=-1, keepdims=True)) + highest
    return np.sum(shares * (log_sums - logits), axis=-1)


def class_order(model, info, class_names=None):
    """Which logit of a model is which class of a data set.

    Args:
        model: as in `evaluate`.
        info: a `DatasetInfo`.
        class_names: as in `evaluate`.

    Returns:
        int (C,), the logit of each class of the data set, where the names are the same in another
        order; else None, for the same order.

    Raises:
        ValueError: for other classes.
    """
    names = class_names if class_names is not None else getattr(model, "class_names", None)
    num_logits = model.output_shape[-1]
    if class_names is not None and len(class_names) != num_logits:
        raise ValueError(
            f"`class_names` must name each of the model's {num_logits} classes. Received: "
            f"{len(class_names)} names"
        )
    if names is None:
        logging.warning(
            "the model does not say what its classes are called: their order is assumed to be that "
            "of %r, %s; pass `class_names` if it is another",
            *(info.name, ", ".join(info.class_names[:3]) + ", ..." * (info.num_classes > 3)),
        )
    elif tuple(names) != tuple(info.class_names) and set(names) == set(info.class_names):
        places = {name: k for k, name in enumerate(names)}
        if len(places) == len(names) == info.num_classes:
            logging.info("the model's classes are in another order than those of %r", info.name)
            return np.array([places[name] for name in info.class_names])
    check_classes(model, info, names)
    return None


def check_classes(model, info, names=None):
    """Raises ValueError unless the model's classes are those of a data set, in its order.

    Args:
        model: as in `evaluate`.
        info: a `DatasetInfo`.
        names: the model's classes; None takes those that it has.
    """
    num_classes = model.output_shape[-1]
    if num_classes != info.num_classes:
        raise ValueError(
            f"the model must have the {info.num_classes} classes of {info.name!r}. "
            f"Received: a model with {num_classes}; fine-tune it on this data set first"
        )
    names = getattr(model, "class_names", None) if names is None else names
    if (
        names
        and all(map(_WORDNET_ID.fullmatch, info.class_names))
        and not all(map(_WORDNET_ID.fullmatch, names))
    ):
        return  # the official words and the WordNet ids of ImageNet's classes, both in its order
    if names is not None and tuple(names) != tuple(info.class_names):
        at = next(i for i, name in enumerate(names) if name != info.class_names[i])
        raise ValueError(
            f"the model's classes must be those of {info.name!r} in the same order. Received: "
            f"class {at} is {names[at]!r} in the model and {info.class_names[at]!r} in the data set"
        )
