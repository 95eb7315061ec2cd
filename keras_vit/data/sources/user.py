"""Data of the user's: arrays or a stream for each split."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.sources import list_targets
from keras_vit.data.sources.arrays import Arrays, read_arrays
from keras_vit.data.sources.protocol import Source
from keras_vit.data.sources.streams import Stream, read_stream
from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSource(Source):
    """Data of the user's: `splits` maps a split's name to its `Arrays` or `Stream`.

    The labels are those of `task`, see `keras_vit.data.tasks`.
    """

    splits: Mapping[str, Arrays | Stream]
    task: str = CLASSIFICATION

    def num_examples(self, split):
        """Returns the number of examples."""
        return len(self.splits[split])

    def labels(self, split):
        """Returns the labels; of a stream that is read for them once more."""
        labels = self.splits[split].labels
        if labels is None:
            labels = self.stream(split).map(lambda image, label, *weight: label)
            labels = np.array(list(labels.as_numpy_iterator()))
        return labels

    def stream(self, split):
        """Returns a `tf.data.Dataset` of (image, label) or (image, label, weight)."""
        return self.splits[split].stream()

    def image_dtype(self, split):
        """Returns the type of the pixels, "string" for encoded images."""
        return self.splits[split].image_dtype

    @property
    def image_shape(self):
        """(H, W, C) where all splits have the same, else None."""
        shapes = {split.image_shape for split in self.splits.values()}
        return shapes.pop() if len(shapes) == 1 else None

    def arrays(self, split):
        """Returns the `parts` of a split in memory, or None."""
        return getattr(self.splits[split], "parts", None)

    def without(self, excluded):
        """Returns the source without some examples."""
        changed = {split: self.splits[split].without(places) for split, places in excluded.items()}
        return dataclasses.replace(self, splits={**self.splits, **changed})

    def fingerprint(self, split):
        """Returns a digest of the arrays' contents, or of what is known of a stream."""
        return self.splits[split].fingerprint()

    def resumption_problem(self, split):
        """Returns why a stream is not the same each time, or None."""
        return self.splits[split].resumption_problem


def is_user_data(dataset):
    """Whether something is a split of the user's, or a dict of such."""
    kinds = (Mapping, tuple, list, tf.data.Dataset, keras.utils.PyDataset)
    return isinstance(dataset, kinds)


def _name(data):
    if isinstance(data, (tuple, list)):
        return "arrays"
    return type(data).__name__ if isinstance(data, keras.utils.PyDataset) else "tf.data"


def _num_classes(splits):
    num_classes = 0
    for split, data in splits.items():
        if data.labels.ndim == 2:
            num_classes = max(num_classes, data.labels.shape[1])
        elif data.labels.min() < 0:
            raise ValueError(
                f"Labels must be integers from 0 on. Received: {data.labels.min()} in {split!r}"
            )
        else:
            num_classes = max(num_classes, int(data.labels.max()) + 1)
    return num_classes


def read_user_data(dataset, class_names=None, task=None):
    """Reads arrays, a `tf.data.Dataset` or a `PyDataset` of the user's, for one split or several.

    A stream is read once here where the number of its examples or of the classes is not known
    otherwise: say it with `assert_cardinality`, and give `class_names`.

    Args:
        dataset: (images, labels) or (images, labels, weights), a `tf.data.Dataset` or a
            `keras.utils.PyDataset`, which is for training, or a dict from a split's name to one.
        class_names: The classes in the order of their labels; None counts them.
        task: What the labels are, one of `keras_vit.data.tasks.TASKS`; None is one class an image.

    Returns:
        `(name, class_names, source)`.

    Raises:
        ValueError: for shapes, types or labels that are none of these, or data without an end.
    """
    given = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    if not given:
        raise ValueError("A data set must have a split. Received: an empty dict")
    splits, task = {}, task or CLASSIFICATION
    for split, data in given.items():
        if isinstance(data, (tuple, list)) and len(data) in (2, 3):
            splits[split] = read_arrays(data, split, task)
        elif isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
            needs_labels = class_names is None or task == MULTILABEL
            splits[split] = read_stream(data, split, needs_labels, task)
        else:
            raise TypeError(
                "A split must be (images, labels), a `tf.data.Dataset` or a `PyDataset`. Received: "
                f"{type(data).__name__} for {split!r}"
            )
    splits, class_names = _with_numbers(splits, class_names)
    if task == MULTILABEL:
        for split, data in splits.items():
            list_targets.check_multi_hot(data.labels, repr(split))
    if class_names is None:
        number = _num_classes(splits)
        class_names = [str(k) for k in range(number)]
        if task == REGRESSION:
            class_names = ["value"] if number == 1 else [f"value_{k}" for k in range(number)]
    _check_shares(splits, len(class_names))
    names = dict.fromkeys(map(_name, given.values()))
    return "+".join(names), tuple(class_names), UserSource(splits=splits, task=task)


def _check_shares(splits, num_classes):
    for split, data in splits.items():
        width = data.label_shape[0] if data.label_shape else num_classes
        if width not in (num_classes, None):
            raise ValueError(
                f"labels (n, C) must have a column for each of {num_classes} classes. Received: "
                f"{width} columns in {split!r}"
            )


def _with_numbers(splits, class_names):
    """Replaces labels that are names by the numbers of the classes."""
    named = {k: s for k, s in splits.items() if s.labels is not None and s.labels.dtype.kind == "U"}
    if not named:
        return splits, class_names
    if class_names is None:
        class_names = sorted(set().union(*(s.labels.tolist() for s in named.values())))
    numbers = {name: k for k, name in enumerate(class_names)}
    splits = dict(splits)
    for split, data in named.items():
        unknown = sorted(set(data.labels.tolist()) - set(numbers))
        if unknown:
            raise ValueError(
                f"A label must be one of the {len(class_names)} class names. Received: "
                f"{unknown[0]!r} in {split!r}"
            )
        labels = np.array([numbers[name] for name in data.labels.tolist()], np.int64)
        splits[split] = dataclasses.replace(data, labels=labels)
    return splits, class_names


_TASKS_IN_WORDS = {
    CLASSIFICATION: "one class an image",
    MULTILABEL: "several labels an image",
    REGRESSION: "values of the images",
}


def check_task(info, task):
    """Raises ValueError unless a data set's labels are those of a task; None takes any."""
    if task is None or info.task == task:
        return
    remedy = {
        CLASSIFICATION: f"set objective={info.task!r}",
        MULTILABEL: "give a list with a column `labels`, or multi-hot arrays",
        REGRESSION: "give a list with a column `value`, or arrays of values",
    }[task]
    raise ValueError(
        f"the data must have {_TASKS_IN_WORDS[task]} (the task {task!r}). Received: {info.name!r} "
        f"with {_TASKS_IN_WORDS[info.task]}; {remedy}, or resolve with `task=`"
    )
