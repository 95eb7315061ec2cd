"""Accuracy and cross-entropy of a classifier on a split, each image counted exactly once.

Shapes: B batch, C classes.
"""

import numpy as np


def evaluate(model, dataset, split="test", batch_size=64, *, data_dir=None):
    """Classifies every image of a split once.

    Args:
        model: functional `keras.Model` from images to (B, C) logits, with `preprocessing` and,
            optionally, `class_names`.
        dataset: a name or a folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`.
        split: the split's name.
        batch_size: images in one call of the model; no result depends on it.
        data_dir: where TFDS keeps its data sets.

    Returns:
        A dict of `accuracy` (share of the images whose class has the highest logit), `loss` (mean
        softmax cross-entropy in nats) and `count` (number of images).

    Raises:
        ValueError: if the model's classes are not those of the data set, or for an unknown split.
        tf.errors.InvalidArgumentError: for an image that is not decoded; the message names it.
    """
    from keras_vit.data import pipeline  # TensorFlow, needed on every backend from here on

    if not isinstance(dataset, pipeline.DatasetInfo):
        dataset = pipeline.resolve(dataset, data_dir)
    return evaluate_batches(model, evaluation_batches(model, dataset, split, batch_size))


def evaluation_batches(model, info, split, batch_size):
    """The batches of a split as a model wants them, for `evaluate_batches`.

    Raises:
        ValueError: as in `evaluate`.
    """
    from keras_vit.data import pipeline

    check_classes(model, info)
    return pipeline.evaluation_dataset(info, split, model.preprocessing, batch_size=batch_size)


def evaluate_batches(model, batches):
    """What `evaluate` returns, for a `tf.data.Dataset` of (images, labels, mask)."""
    correct, loss, count = 0, 0.0, 0
    for images, labels, mask in batches.as_numpy_iterator():
        logits = np.asarray(model.predict_on_batch(images), np.float64)  # (B, C)
        logits, labels = logits[mask > 0], labels[mask > 0]
        correct += int(np.sum(np.argmax(logits, axis=-1) == labels))
        loss += float(np.sum(cross_entropy(logits, labels)))
        count += len(labels)
    return {"accuracy": correct / count, "loss": loss / count, "count": count}


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
    if names is not None and tuple(names) != tuple(info.class_names):
        at = next(i for i, name in enumerate(names) if name != info.class_names[i])
        raise ValueError(
            f"the model's classes must be those of {info.name!r} in the same order. Received: "
            f"class {at} is {names[at]!r} in the model and {info.class_names[at]!r} in the data set"
        )
