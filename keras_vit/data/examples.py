"""The examples of a split: in memory, where any can be read at once, or streamed in order.

Both kinds give data sets of *elements*, small tuples or scalars that begin with a position, from
any position on, and read an element to an `Example`.  Reading is left to the caller's `map`, so
that it happens in parallel and once.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_vit.data import decode, preprocess
from keras_vit.data.batches import NUM_THREADS, make_options
from keras_vit.data.datasets import FolderSource

MAX_INDEXED_BYTES = 2**30
MAX_PIXEL_BYTES = 2**31
SHUFFLE_BUFFER = 16_384
_ALIGNMENT = 64  # bytes, from which a slice of a tensor need not be copied
_ENOUGH = 256  # images, whose mean size tells whether all fit
_NO_END = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Example:
    """One example, its image not decoded yet.

    Args:
        image: a function of `find_window` (or None) and `is_named`, whether an error must name the
            image, to uint8 (H, W, 3), or the part of it in the window.
        label: int32 scalar, or (K,).
        epoch: int64 scalar.
        index: int64 scalar, its place in the split.
    """

    image: Callable
    label: tf.Tensor
    epoch: tf.Tensor
    index: tf.Tensor


def _decoded(image, name, find_window=None, is_named=True):
    """What a source gives, encoded or pixels -> uint8 (H, W, 3), or the part in the window."""
    if image.dtype == tf.uint8:
        if find_window is None:
            return image
        return preprocess.cut(image, find_window(tf.shape(image)[:2]))
    if is_named:
        return decode.decode_image(image, name=name, find_window=find_window)
    return decode.decode_image_unnamed(image, find_window=find_window)


def _example_name(name, index):
    return tf.strings.join([f"{name} example ", tf.strings.as_string(index)])


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """Decoded images of any size, one behind the other.

    Args:
        values: uint8 (number of bytes,).
        starts: int64 (n,), where each image begins, a multiple of `_ALIGNMENT`.
        sizes: int32 (n, 2), height and width.
    """

    values: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor

    @classmethod
    def join(cls, images):
        """Takes them out of the list `images`, uint8 (H, W, 3) each, one by one."""
        lengths = np.array([image.size for image in images], np.int64)
        ends = np.cumsum(-(-lengths // _ALIGNMENT) * _ALIGNMENT)
        starts = np.concatenate([[0], ends[:-1]])
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        values = np.zeros(ends[-1], np.uint8)
        for k in reversed(range(len(images))):
            values[starts[k] : starts[k] + lengths[k]] = images.pop().reshape(-1)
        return cls(*(tf.constant(part) for part in (values, starts, sizes)))

    def image(self, place):
        """Scalar int64 -> uint8 (H, W, 3)."""
        height, width = tf.unstack(tf.gather(self.sizes, place), num=2)
        values = tf.slice(
            self.values, [tf.gather(self.starts, place)], [tf.cast(height * width * 3, tf.int64)]
        )
        return tf.reshape(values, (height, width, 3))


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Examples of which any can be read at once; an element is a position, scalar int64.

    Args:
        records: (n,) string, paths or encoded images, or `_Pixels`.
        labels: (n,) or (n, K) int32.
        indices: (n,) int64, the place of each example in its split.
        is_path: whether `records` are paths.
        name: what an error calls the split.
    """

    records: tf.Tensor | _Pixels
    labels: tf.Tensor
    indices: tf.Tensor
    is_path: bool
    name: str

    def __len__(self):
        return self.labels.shape[0]

    @property
    def blank(self):
        """An element whose reading does not fail."""
        return tf.constant(-1, tf.int64)

    def in_order(self, start):
        """The elements from a position to the end."""
        return tf.data.Dataset.range(start, len(self))

    def shuffled(self, start, seed):
        """The elements from a position on, without end; `read` shuffles them by the seed."""
        del seed
        return tf.data.Dataset.range(start, _NO_END)

    def read(self, position, seed=None):
        """Reads an element, in the order of the split, or in that of `shuffled` with its seed."""
        epoch, place = position // len(self), position % len(self)
        if seed is not None:
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            place = tf.random.experimental.index_shuffle(place, seeds, len(self) - 1)
        index = tf.gather(self.indices, place)
        image = functools.partial(self._image, position, place, index)
        return Example(image, tf.gather(self.labels, place), epoch, index)

    def _image(self, position, place, index, find_window=None, *, is_named=True):
        if isinstance(self.records, _Pixels):
            return _decoded(self.records.image(place), None, find_window, is_named)
        record = tf.gather(self.records, place)
        name = record if self.is_path else _example_name(self.name, index)
        encoded = tf.cond(
            position < 0,
            lambda: tf.constant(decode.BLANK_JPEG),
            lambda: tf.io.read_file(record) if self.is_path else record,
        )
        return _decoded(encoded, name, find_window, is_named)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Examples that are read in order; an element is (position, epoch, index, record, label).

    Args:
        stream: a `tf.data.Dataset` of (record, label), a record being an encoded image or pixels.
        size: number of examples.
        num_classes: of which the labels are checked to be.
        name: what an error calls the split.
    """

    stream: tf.data.Dataset
    size: int
    num_classes: int
    name: str

    def __len__(self):
        return self.size

    @property
    def blank(self):
        record, label = self.stream.element_spec
        if record.dtype == tf.string:
            record = tf.constant(decode.BLANK_JPEG)
        else:
            record = tf.zeros([side or 1 for side in record.shape], record.dtype)
        position = tf.constant(-1, tf.int64)
        zero = tf.constant(0, tf.int64)
        return position, zero, zero, record, tf.zeros(label.shape, label.dtype)

    def in_order(self, start):
        """The elements from a position to the end; what comes before is read and dropped."""
        stream = self.stream.enumerate().skip(start)
        zero = tf.constant(0, tf.int64)
        return stream.map(lambda index, example: (index, zero, index, *example))

    def shuffled(self, start, seed):
        """The elements from a position on, without end, through a shuffle buffer."""
        stream = self.stream.enumerate()

        def one_epoch(epoch):
            # Of this function's graph: the seed of the process has no say in the order.
            tf.random.set_seed(seed + 1)
            shuffled = stream.shuffle(SHUFFLE_BUFFER, seed=epoch, reshuffle_each_iteration=False)
            return shuffled.map(lambda index, example: (epoch, index, *example))

        epochs = tf.data.Dataset.range(start // self.size, _NO_END)
        elements = epochs.flat_map(one_epoch).skip(start % self.size).enumerate(start)
        return elements.map(lambda position, element: (position, *element))

    def read(self, position, epoch, index, record, label, seed=None):
        """Reads an element; it is where `shuffled` has put it already."""
        del position, seed
        name = _example_name(self.name, index)
        lowest = 0 if label.shape.rank == 0 else -1
        known = tf.reduce_all(tf.logical_and(label >= lowest, label < self.num_classes))
        refused = tf.raw_ops.Assert(
            condition=known, data=[tf.strings.join([name, ": label out of range"]), label]
        )
        with tf.control_dependencies([refused]):
            label = tf.cast(label, tf.int32)

        def image(find_window=None, *, is_named=True):
            return _decoded(record, name, find_window, is_named)

        return Example(image, label, epoch, index)


def _first_of_each_class(labels, shots, seed, info):
    """The first `shots` of each class in a seeded permutation (big_vision's `fewshot_lsr`)."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label, name in enumerate(info.class_names):
        indices = rng.permutation(np.flatnonzero(labels == label))
        if len(indices) < shots:
            raise ValueError(
                "`shots` must be at most the number of examples of each class. Received: "
                f"{shots}, and {info.name!r} has {len(indices)} of class {name!r}"
            )
        chosen.append(indices[:shots])
    return np.sort(np.concatenate(chosen))


def _checked_labels(labels, info, split):
    labels = np.asarray(labels)
    # Of an image that may have several, -1 fills up.
    wrong = (labels < (0 if labels.ndim == 1 else -1)) | (labels >= info.num_classes)
    bad = np.flatnonzero(wrong if labels.ndim == 1 else wrong.any(axis=1))
    if bad.size:
        raise ValueError(
            f"Labels must be in [0, {info.num_classes}). Received: {labels[bad[0]]} for example "
            f"{bad[0]} of {info.name!r} {split}; choose a split that has labels."
        )
    return labels


def _max_pixel_bytes():
    """An eighth of the machine's memory, within `MAX_PIXEL_BYTES`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(MAX_PIXEL_BYTES, memory // 8)


def _decode_all(records, read, num_examples):
    """Returns `_Pixels`, or None where they would take too much memory."""
    max_bytes = _max_pixel_bytes()
    images, num_bytes = [], 0
    decoded = records.map(read, num_parallel_calls=NUM_THREADS).prefetch(NUM_THREADS)
    for image in decoded.with_options(make_options()).as_numpy_iterator():
        images.append(image)
        num_bytes += image.size
        expected = num_bytes / len(images) * num_examples
        if num_bytes > max_bytes or len(images) == _ENOUGH and expected > 1.2 * max_bytes:
            return None
    return _Pixels.join(images)


def load(info, split, *, shots=None, seed=0, as_pixels=False):
    """Returns the examples of a split, `Streamed` where they are too large for memory.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        shots: keeps this many examples of each class, the first in a permutation that depends on
            `seed`; None keeps all.
        seed: integer, for `shots`.
        as_pixels: whether to decode all images now, if they fit in memory: each costs less to read
            from then on.

    Returns:
        `Indexed` or `Streamed`.

    Raises:
        ValueError: for an empty split, more shots than a class has, or labels that are no classes.
        tf.errors.InvalidArgumentError: with `as_pixels`, for an image that is not decoded; the
            message names it.
    """
    num_examples = info.num_examples(split)
    if num_examples < 1:
        raise ValueError(f"A split must have examples. Received: {info.name!r} {split!r}, empty")
    name = f"{info.name} {split}"
    chosen = np.arange(num_examples)
    is_path = isinstance(info.source, FolderSource)
    if is_path:
        files = info.source.splits[split]
        labels = np.array(files.labels)
        if shots is not None:
            chosen = _first_of_each_class(labels, shots, seed, info)
        records, labels = [files.paths[index].encode() for index in chosen], labels[chosen]
    else:
        stream = info.source.stream(split)
        if shots is None and info.source.num_bytes(split) > MAX_INDEXED_BYTES:
            return Streamed(stream, num_examples, info.num_classes, name)
        if shots is not None:
            labels = list(stream.map(lambda _, label: label).as_numpy_iterator())
            chosen = _first_of_each_class(np.array(labels), shots, seed, info)
            is_chosen = tf.constant(np.isin(np.arange(num_examples), chosen))
            stream = stream.enumerate().filter(lambda index, _: is_chosen[index])
            stream = stream.map(lambda _, example: example)
        records, labels = map(list, zip(*stream.as_numpy_iterator(), strict=True))
        labels = _checked_labels(labels, info, split)
    labels, indices = tf.constant(labels, tf.int32), tf.constant(chosen, tf.int64)
    if isinstance(records[0], np.ndarray):
        return Indexed(_Pixels.join(records), labels, indices, False, name)
    examples = Indexed(tf.constant(records), labels, indices, is_path, name)
    if as_pixels:
        pixels = _decode_all(
            examples.in_order(0), lambda place: examples.read(place).image(), len(examples)
        )
        if pixels is not None:
            return dataclasses.replace(examples, records=pixels, is_path=False)
    return examples
