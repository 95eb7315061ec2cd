"""What a model answers about a split, all of it in memory: for what no mean of batches tells.

Shapes: n images, C outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_vit.evaluators.classification import check_classes, class_order
from keras_vit.evaluators.own_data import resolve_for
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of


def split_batches(
    model, info, split, batch_size=64, *, task=None, repeated=False, preprocessing=None
):
    """The batches of a split as a model wants them.

    Args:
        model: As in `keras_vit.evaluate`.
        info: A `DatasetInfo`.
        split: Name of the split.
        batch_size: Images in one call of the model.
        task: What the labels must be; None takes any.
        repeated: As in `keras_vit.data.pipeline.evaluation_dataset`.
        preprocessing: As in `keras_vit.evaluate`.

    Returns:
        A `tf.data.Dataset` of (images, labels, mask).
    """
    from keras_vit.data import pipeline

    info = pipeline.resolve(info, task=task)
    rule = preprocessing_of(model, preprocessing)
    return pipeline.evaluation_dataset(info, split, rule, batch_size=batch_size, repeated=repeated)


def collect(model, batches, between=None, order=None):
    """Runs a model over batches.

    Args:
        model: As in `keras_vit.evaluate`.
        batches: Of `split_batches`.
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
    model = network_of(model)
    info = resolve_for(model, dataset, split, task=task, class_names=class_names)
    order = class_order(model, info, class_names)
    batches = split_batches(model, info, split, batch_size, preprocessing=preprocessing)
    return info, *collect(model, batches, order=order)


@dataclasses.dataclass
class SplitEvaluator:
    """Base of evaluators that look at all answers about a split at once.

    A subclass has `task`, what the labels must be, and `measure(outputs, labels, model)`.

    Args:
        split: Name of the split.
        dataset: As in `keras_vit.evaluate`; None is the data set of the training that it is given
            to.
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
            check_classes(model, self.dataset)
            self._batches = split_batches(
                model, self.dataset, self.split, self.batch_size, repeated=True
            )
        return self.measure(*collect(model, self._batches, self.between), model)
