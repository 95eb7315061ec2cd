"""Class weights: how much an image counts in the loss, by its class.

Shapes: B batch, C classes.
"""

import numpy as np
import tensorflow as tf


def class_weights(asked, info, split):
    """The weight of each class.

    Args:
        asked: `"balanced"` for n / (C n_c), as scikit-learn has it, whose mean over the images is 1
            (n images, n_c of the class; classes without images are not counted in C and have 0), or
            C numbers.
        info: A `DatasetInfo`.
        split: The split to train on.

    Returns:
        float32 (C,).

    Raises:
        ValueError: For another number of weights, or images that have not one class each.
    """
    labels = np.asarray(info.source.labels(split))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`class_weights` need one class for each image. Received: {info.name!r} with labels "
            f"{labels.shape}"
        )
    if isinstance(asked, str):
        counts = np.bincount(labels, minlength=info.num_classes)
        weights = len(labels) / (np.sum(counts > 0) * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)
    if len(asked) != info.num_classes:
        raise ValueError(
            f"`class_weights` must be one for each of the {info.num_classes} classes, "
            f"{', '.join(info.class_names[:5])}, ... Received: {len(asked)}"
        )
    return np.array(asked, np.float32)


def weighted(dataset, weights):
    """Multiplies the weights of examples by those of their classes.

    Args:
        dataset: `tf.data.Dataset` of (images, labels) or (images, labels, weights); labels int32
            (B,), or float32 (B, C), the shares of mixed images, which share their weights too.
        weights: float32 (C,).

    Returns:
        A `tf.data.Dataset` of (images, labels, weights), float32 (B,).
    """
    weights = tf.constant(weights)

    def apply(images, labels, *given):
        if labels.dtype.is_floating:
            of_class = tf.linalg.matvec(labels, weights)
        else:
            of_class = tf.gather(weights, labels)
        return images, labels, of_class * given[0] if given else of_class

    return dataset.map(apply, num_parallel_calls=2)
