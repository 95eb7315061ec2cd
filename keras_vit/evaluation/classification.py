"""Accuracy and cross-entropy of a classifier on a split, each image counted exactly once.

Shapes: B batch, C classes.
"""

import re

import numpy as np

from keras_vit.data import table
from keras_vit.evaluation.real import any_label, with_real_labels

_WORDNET_ID = re.compile(r"n\d{8}")
_TOP_K = 5


def evaluate(model, dataset, split="test", batch_size=64, *, data_dir=None, real_labels=None):
    """Classifies every image of a split once.

    Args:
        model: functional `keras.Model` from images to (B, C) logits, with `preprocessing` and,
            optionally, `class_names`.
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`.
        split: the split's name.
        batch_size: images in one call of the model; no result depends on it.
        data_dir: where TFDS keeps its data sets.
        real_labels: the path of an official `real.json`, to take its labels in the place of
            "imagenet2012"'s.

    Returns:
        A dict of `accuracy` (share of the images whose class has the highest logit), `loss` (mean
        softmax cross-entropy in nats) and `count` (number of images).

        Where an image may have several labels (ReaL, ObjectNet), any of them is right, images
        without one are left out of `count` and counted as `unlabelled`, and there is no loss.
        Where a data set has some of the model's classes only (ImageNet-A, ImageNet-R, ObjectNet),
        the highest is sought among these, `classes` is their number, and `top5_accuracy` is added.

    Raises:
        ValueError: if the model's classes are not those of the data set, for an unknown split, or
            for ReaL labels that do not fit.
        tf.errors.InvalidArgumentError: for an image that is not decoded; the message names it.
    """
    from keras_vit.data import pipeline  # TensorFlow, needed on every backend from here on

    if not isinstance(dataset, pipeline.DatasetInfo):
        dataset = pipeline.resolve(dataset, data_dir)
    if real_labels is not None:
        dataset = with_real_labels(dataset, real_labels)
    batches = evaluation_batches(model, dataset, split, batch_size)
    return evaluate_batches(model, batches, scored_classes(dataset, split))


def scored_classes(info, split):
    """The classes that an image of a split may be, int (n,); None if they are all there."""
    if info.evaluation != table.SHARED_CLASSES:
        return None
    labels = np.unique(info.source.labels(split))
    return labels[labels >= 0]


def evaluation_batches(model, info, split, batch_size, *, repeated=False):
    """The batches of a split as a model wants them, for `evaluate_batches`.

    Args:
        model, info, split, batch_size: as in `evaluate`.
        repeated: as in `keras_vit.data.pipeline.evaluation_dataset`.

    Raises:
        ValueError: as in `evaluate`.
    """
    from keras_vit.data import pipeline

    check_classes(model, info)
    return pipeline.evaluation_dataset(
        info, split, model.preprocessing, batch_size=batch_size, repeated=repeated
    )


def evaluate_batches(model, batches, classes=None, between=None):
    """What `evaluate` returns, for a `tf.data.Dataset` of (images, labels, mask).

    Args:
        model: as in `evaluate`.
        batches: labels are (B,), or (B, K) filled up with -1.
        classes: the classes to choose from, integers (n,); None takes all.
        between: called before each batch, or None.
    """
    correct, correct_of_top, loss, count, num_unlabelled = 0, 0, 0.0, 0, 0
    several = batches.element_spec[1].shape.rank == 2
    for images, labels, mask in batches.as_numpy_iterator():
        if between is not None:
            between()
        logits = np.asarray(model.predict_on_batch(images), np.float64)  # (B, C)
        logits, labels = logits[mask > 0], labels[mask > 0]
        if classes is not None:
            logits = among(logits, classes)
        rows = labels if several else labels[:, np.newaxis]  # (B, K)
        num_labelled = int((rows >= 0).any(axis=-1).sum())
        count += num_labelled
        num_unlabelled += len(rows) - num_labelled
        # The first of equally high logits, as argmax has it.
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :_TOP_K]
        correct += int(any_label(best[:, :1], rows).sum())
        correct_of_top += int(any_label(best, rows).sum())
        if not several:
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


def check_classes(model, info):
    """Raises ValueError unless the model's classes are those of a data set, in its order."""
    num_classes = model.output_shape[-1]
    if num_classes != info.num_classes:
        raise ValueError(
            f"the model must have the {info.num_classes} classes of {info.name!r}. "
            f"Received: a model with {num_classes}; fine-tune it on this data set first"
        )
    names = getattr(model, "class_names", None)
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
