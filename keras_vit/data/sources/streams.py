"""A split that is a `tf.data.Dataset` or a `keras.utils.PyDataset`."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_vit.data.sources.protocol import digest, keep
from keras_vit.data.tasks import CLASSIFICATION, REGRESSION

_NUM_COMPARED = 4  # examples that are read twice, to see whether their order is the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """One split that is read in its own order.

    Args:
        dataset: A `tf.data.Dataset` of single (image, label) or (image, label, weight).
        size: Number of examples.
        labels: int64 (n,) or float32 (n, C), or None if they have not been read yet.
        resumption_problem: Why its order is not the same each time, or None.
        start: Digest of the first examples.
    """

    dataset: Any
    size: int
    labels: np.ndarray | None
    resumption_problem: str | None
    start: str

    def __len__(self):
        return self.size

    @property
    def image_dtype(self):
        """The type of the pixels, or "string"."""
        return self.dataset.element_spec[0].dtype.name

    @property
    def label_shape(self):
        """The shape of one label: () for a class, (C,) for shares or values."""
        return tuple(self.dataset.element_spec[1].shape)

    @property
    def image_shape(self):
        """(H, W, C), or None."""
        shape = self.dataset.element_spec[0].shape
        return tuple(shape) if shape.rank == 3 and None not in shape[:2] else None

    def stream(self):
        """Returns the data set, which must have as many examples as it had."""
        return self.dataset.apply(tf.data.experimental.assert_cardinality(self.size))

    def without(self, excluded):
        """Returns the split without some examples."""
        is_kept = keep(self.size, excluded)
        kept = tf.constant(is_kept)
        dataset = self.dataset.enumerate().filter(lambda index, _: kept[index])
        return dataclasses.replace(
            self,
            dataset=dataset.map(lambda _, example: example),
            size=int(is_kept.sum()),
            labels=None if self.labels is None else self.labels[is_kept],
        )

    def fingerprint(self):
        """Returns a digest of what is known without reading all of it."""
        labels = None if self.labels is None else self.labels.tolist()
        return digest(self.size, self.dataset.element_spec, labels, self.start)


def _from_py_dataset(dataset):
    """A `keras.utils.PyDataset` -> a `tf.data.Dataset` of its batches, in its order."""
    num_batches = dataset.num_batches
    if num_batches is None:
        raise ValueError(
            "A `PyDataset` must have an end. Received: `num_batches` None; define `__len__`"
        )

    def read(index):
        return [np.asarray(part) for part in dataset[int(index)] if part is not None]

    first = read(0)
    if len(first) not in (2, 3):
        raise ValueError(
            "A `PyDataset` must give (images, labels) or (images, labels, weights). Received: "
            f"{len(first)} parts"
        )

    def read_in_graph(index):
        parts = tf.numpy_function(read, [index], [part.dtype for part in first])
        return tuple(
            tf.ensure_shape(part, (None, *known.shape[1:]))
            for part, known in zip(parts, first, strict=True)
        )

    return tf.data.Dataset.range(num_batches).map(read_in_graph)


def _single_examples(dataset, split):
    """A data set of examples or batches -> one of examples (image, label) or with a weight."""
    spec = dataset.element_spec
    remedy = "map it to (image, label) or (image, label, weight)"
    is_tuple = isinstance(spec, tuple) and len(spec) in (2, 3)
    if not is_tuple or not all(isinstance(part, tf.TensorSpec) for part in spec):
        raise ValueError(
            "A `tf.data.Dataset` must give (image, label). Received: "
            f"{spec} for {split!r}; {remedy}"
        )
    image = spec[0]
    is_text = image.dtype == tf.string
    if image.shape.rank == (1 if is_text else 4):
        return dataset.unbatch()
    if image.shape.rank != (0 if is_text else 3):
        raise ValueError(
            "An image must be (H, W, C), (B, H, W, C), or encoded as a string. Received: "
            f"{image} for {split!r}; fix the shape with `tf.ensure_shape`"
        )
    return dataset


def _normalized(image, label, *weight, task=CLASSIFICATION):
    if image.dtype.is_floating:
        image = tf.cast(image, tf.float32)
    if task == REGRESSION:
        label = tf.reshape(tf.cast(label, tf.float32), [label.shape.num_elements() or 1])
    elif label.shape.rank == 1 and label.shape[0] == 1:
        label = label[0]
    if label.shape.rank not in (0, 1):
        raise ValueError(
            f"A label must be an integer, or each class's share (C,). Received: {label.shape}"
        )
    label = tf.cast(label, tf.int64 if label.shape.rank == 0 else tf.float32)
    return image, label, *(tf.cast(part, tf.float32) for part in weight)


def _start(dataset):
    examples = dataset.take(_NUM_COMPARED).as_numpy_iterator()
    return digest(*(np.asarray(part).tobytes() for example in examples for part in example))


def read_stream(dataset, split, needs_labels, task=CLASSIFICATION):
    """Returns the `Stream` of a `tf.data.Dataset` or a `keras.utils.PyDataset`.

    Args:
        dataset: Gives (image, label) or (image, label, weight), in batches or not.
        split: Name of the split, for errors.
        needs_labels: Whether to read all of it now, for its labels; its size is counted then too.
        task: What the labels are.

    Raises:
        ValueError: for elements that are none of these, or data without an end.
    """
    if isinstance(dataset, keras.utils.PyDataset):
        dataset = _from_py_dataset(dataset)
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "A `tf.data.Dataset` must have an end: epochs are counted here. Received: an infinite "
            f"one for {split!r}; leave `.repeat()` out, or add `.take(n)`"
        )
    normalized = functools.partial(_normalized, task=task)
    dataset = _single_examples(dataset, split).map(normalized)
    size, labels = int(dataset.cardinality()), None
    if size < 0 or needs_labels:
        logging.info("reading %r once, for the number of its examples and their labels", split)
        labels = dataset.map(lambda image, label, *weight: label)
        labels = np.array(list(labels.as_numpy_iterator()))
        size = len(labels)
    if not size:
        raise ValueError(f"A split must have examples. Received: {split!r}, empty")
    start = _start(dataset)
    problem = None
    if dataset.options().deterministic is False or _start(dataset) != start:
        problem = (
            f"the data set of {split!r} is not the same each time that it is read; leave its own "
            "shuffling out, or shuffle with a seed and `reshuffle_each_iteration=False`"
        )
    return Stream(
        dataset=dataset, size=size, labels=labels, resumption_problem=problem, start=start
    )
