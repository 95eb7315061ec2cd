"""What a model answers about a split, all of it in memory: for what no mean of batches tells.

Shapes: n images, C outputs.
"""

import dataclasses

import numpy as np

from keras_vit.evaluators.classification import OnSplit, class_order
from keras_vit.evaluators.own_data import resolve_for
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of


def collect(model, batches, between=None, order=None):
    """Runs a model over batches.

    Args:
        model: As in `keras_vit.evaluate`.
        batches: A `tf.data.Dataset` of (images, labels, mask).
        between: Called before each batch, or None.
        order: The logit of each class, as `class_order` returns it; None is the same.

    Returns:
        `(outputs, labels)`: float64 (n, C), and the labels as they are, (n,) or (n, C).
    """
    outputs, labels = [], []
    for images, targets, mask in batches.as_numpy_iterator():
        if between is not None:
            between()
        answers = np.asarray(model.predict_on_batch(images), np.float64)
        outputs.append(answers[mask > 0])
        labels.append(targets[mask > 0])
    outputs = np.concatenate(outputs)
    return outputs if order is None else outputs[:, order], np.concatenate(labels)


def answers(model, dataset, split, batch_size=64, *, task, preprocessing=None, class_names=None):
    """What a model answers about a split, and what is right.

    Args:
        model, dataset, split, batch_size, preprocessing, class_names: As in `keras_vit.evaluate`.
        task: What the labels must be.

    Returns:
        `(info, outputs, labels)`: the `DatasetInfo`, and as `collect`, in its order of classes.

    Raises:
        ValueError: If the data are for another task, or the model's classes are others.
    """
    from keras_vit.data import pipeline

    model = network_of(model)
    info = resolve_for(model, dataset, split, task=task, class_names=class_names)
    order = class_order(model, info, class_names)
    rule = preprocessing_of(model, preprocessing)
    batches = pipeline.evaluation_dataset(info, split, rule, batch_size=batch_size)
    return info, *collect(model, batches, order=order)


@dataclasses.dataclass
class SplitEvaluator(OnSplit):
    """Base of evaluators that look at all answers about a split at once.

    A subclass has `task` and `measure(outputs, labels, model)`.

    Args:
        split, dataset, batch_size, name, between: As in `OnSplit`.
    """

    def measure_batches(self, model, batches):
        """`measure` of all answers."""
        return self.measure(*collect(model, batches, self.between), model)
