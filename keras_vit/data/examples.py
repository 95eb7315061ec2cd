"""The examples of a split: in memory, where any can be read at once, or streamed in order.

What is streamed is shuffled through a buffer, but for a data set of the user's, which keeps its own
order.

Both kinds give data sets of *elements*, small tuples or scalars that begin with a position, from
any position on, and read an element to an `Example`.  Reading is left to the caller's `map`, so
that it happens in parallel and once.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from keras_vit.data.batches import NUM_THREADS, make_options
from keras_vit.data.images import decode
from keras_vit.data.images.chance import cut
from keras_vit.data.images.image_problems import MAX_FILE_BYTES

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
            image, to uint8 (H, W, C), or the part of it in the window; of an image that is ready
            for the model, float32 (h, w, C).
        label: int32 scalar, or (K,); or float32 (C,).
        epoch: int64 scalar.
        index: int64 scalar, its place in the split.
        weight: () or (float32 scalar,).
    """

    image: Callable
    label: tf.Tensor
    epoch: tf.Tensor
    index: tf.Tensor
    weight: tuple = ()


def _decoded(image, name, limits, find_window=None, is_named=True):
    """What a source gives, encoded or pixels -> uint8 (H, W, C), or the part in the window."""
    if image.dtype.is_floating:
        return image
    if image.dtype == tf.uint8:
        if find_window is None:
            return image
        return cut(image, find_window(tf.shape(image)[:2]))
    if is_named:
        return decode.decode_image(image, name=name, find_window=find_window, **limits)
    return decode.decode_image_unnamed(image, find_window=find_window, **limits)


def _example_name(name, index):
    return tf.strings.join([f"{name} example ", tf.strings.as_string(index)])


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """Decoded images of any size, one behind the other.

    Args:
        values: uint8 (number of bytes,).
        starts: int64 (n,), where each image begins, a multiple of `_ALIGNMENT`.
        sizes: int32 (n, 2), height and width.
        channels: of every image.
    """

    values: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor
    channels: int

    @classmethod
    def join(cls, images):
        """Takes them out of the list `images`, uint8 (H, W, C) each, one by one."""
        channels = images[0].shape[-1]
        lengths = np.array([image.size for image in images], np.int64)
        ends = np.cumsum(-(-lengths // _ALIGNMENT) * _ALIGNMENT)
        starts = np.concatenate([[0], ends[:-1]])
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        values = np.zeros(ends[-1], np.uint8)
        for k in reversed(range(len(images))):
            values[starts[k] : starts[k] + lengths[k]] = images.pop().reshape(-1)
        return cls(*(tf.constant(part) for part in (values, starts, sizes)), channels)

    def image(self, place):
        """Scalar int64 -> uint8 (H, W, C)."""
        height, width = tf.unstack(tf.gather(self.sizes, place), num=2)
        size = tf.cast(height * width * self.channels, tf.int64)
        values = tf.slice(self.values, [tf.gather(self.starts, place)], [size])
        return tf.reshape(values, (height, width, self.channels))


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Examples of which any can be read at once; an element is a position, scalar int64.

    Args:
        records: (n,) string, paths or encoded images; pixels (n, H, W, C); or `_Pixels`.
        labels: (n,) or (n, K) int32, or (n, C) float32.
        indices: (n,) int64, the place of each example in its split.
        is_path: whether `records` are paths.
        name: what an error calls the split.
        weights: () or (float32 (n,),).
        limits: arguments of `decode_image`.
    """

    records: tf.Tensor | _Pixels
    labels: tf.Tensor
    indices: tf.Tensor
    is_path: bool
    name: str
    weights: tuple = ()
    limits: Mapping = dataclasses.field(default_factory=dict)

    @property
    def is_ready(self):
        """Whether images go into the model as they are."""
        return not isinstance(self.records, _Pixels) and self.records.dtype.is_floating

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
        return self.example(position, place, epoch)

    def example(self, position, place, epoch):
        """The `Example` at a place."""
        index = tf.gather(self.indices, place)
        image = functools.partial(self._image, position, place, index)
        weight = tuple(tf.gather(weights, place) for weights in self.weights)
        return Example(image, tf.gather(self.labels, place), epoch, index, weight)

    def _image(self, position, place, index, find_window=None, *, is_named=True):
        if isinstance(self.records, _Pixels):
            return _decoded(self.records.image(place), None, {}, find_window, is_named)
        record = tf.gather(self.records, place)
        if record.dtype != tf.string:
            return _decoded(record, None, {}, find_window, is_named)
        name = record if self.is_path else _example_name(self.name, index)
        encoded = tf.cond(
            position < 0,
            lambda: tf.constant(decode.BLANK_JPEG),
            lambda: tf.io.read_file(record) if self.is_path else record,
        )
        return _decoded(encoded, name, self.limits, find_window, is_named)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Examples that are read in order; an element is (position, epoch, index, record, label).

    Args:
        stream: a `tf.data.Dataset` of (record, label) or (record, label, weight), a record being an
            encoded image or pixels.
        size: number of examples.
        num_classes: of which the labels are checked to be.
        name: what an error calls the split.
        is_shuffled: whether training shuffles them.
        limits: arguments of `decode_image`.
    """

    stream: tf.data.Dataset
    size: int
    num_classes: int
    name: str
    is_shuffled: bool = True
    limits: Mapping = dataclasses.field(default_factory=dict)

    @property
    def is_ready(self):
        """Whether images go into the model as they are."""
        return self.stream.element_spec[0].dtype.is_floating

    def __len__(self):
        return self.size

    @property
    def blank(self):
        record, label, *weight = self.stream.element_spec
        if record.dtype == tf.string:
            record = tf.constant(decode.BLANK_JPEG)
        else:
            record = tf.zeros([side or 1 for side in record.shape], record.dtype)
        position = tf.constant(-1, tf.int64)
        zero = tf.constant(0, tf.int64)
        zeros = (tf.zeros(part.shape, part.dtype) for part in (label, *weight))
        return position, zero, zero, record, *zeros

    def in_order(self, start):
        """The elements from a position to the end; what comes before is read and dropped."""
        stream = self.stream.enumerate().skip(start)
        zero = tf.constant(0, tf.int64)
        return stream.map(lambda index, example: (index, zero, index, *example))

    def shuffled(self, start, seed):
        """The elements from a position on, without end, through a shuffle buffer or in order."""
        stream = self.stream.enumerate()

        def one_epoch(epoch):
            if not self.is_shuffled:
                return stream.map(lambda index, example: (epoch, index, *example))
            # Of this function's graph: the seed of the process has no say in the order.
            tf.random.set_seed(seed + 1)
            shuffled = stream.shuffle(SHUFFLE_BUFFER, seed=epoch, reshuffle_each_iteration=False)
            return shuffled.map(lambda index, example: (epoch, index, *example))

        epochs = tf.data.Dataset.range(start // self.size, _NO_END)
        elements = epochs.flat_map(one_epoch).skip(start % self.size).enumerate(start)
        return elements.map(lambda position, element: (position, *element))

    def read(self, position, epoch, index, record, label, *weight, seed=None):
        """Reads an element; it is where `shuffled` has put it already."""
        del position, seed
        name = _example_name(self.name, index)
        if not label.dtype.is_floating:
            lowest = 0 if label.shape.rank == 0 else -1
            known = tf.reduce_all(tf.logical_and(label >= lowest, label < self.num_classes))
            refused = tf.raw_ops.Assert(
                condition=known, data=[tf.strings.join([name, ": label out of range"]), label]
            )
            with tf.control_dependencies([refused]):
                label = tf.cast(label, tf.int32)

        def image(find_window=None, *, is_named=True):
            return _decoded(record, name, self.limits, find_window, is_named)

        return Example(image, label, epoch, index, weight)


def _first_of_each_class(labels, shots, seed, info):
    """The first `shots` of each class in a seeded permutation (big_vision's `fewshot_lsr`)."""
    if labels.ndim != 1:
        raise ValueError(f"`shots` need one class for each image. Received: labels {labels.shape}")
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
    if labels.dtype.kind == "f":  # each class's share
        if labels.shape[1:] != (info.num_classes,):
            raise ValueError(
                f"Labels that are shares must be (n, {info.num_classes}). Received: shape "
                f"{labels.shape} for {info.name!r} {split}"
            )
        return labels
    # Of an image that may have several, -1 fills up.
    wrong = (labels < (0 if labels.ndim == 1 else -1)) | (labels >= info.num_classes)
    bad = np.flatnonzero(wrong if labels.ndim == 1 else wrong.any(axis=1))
    if bad.size:
        raise ValueError(
            f"Labels must be in [0, {info.num_classes}). Received: {labels[bad[0]]} for example "
            f"{bad[0]} of {info.name!r} {split}; choose a split that has labels."
        )
    return labels


def _as_tensor(labels):
    return tf.constant(labels, tf.float32 if labels.dtype.kind == "f" else tf.int32)


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


def load(info, split, *, shots=None, seed=0, as_pixels=False, orientation=None):
    """Returns the examples of a split, `Streamed` where they are too large for memory.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        shots: keeps this many examples of each class, the first in a permutation that depends on
            `seed`; None keeps all.
        seed: integer, for `shots`.
        as_pixels: whether to decode all images now, if they fit in memory: each costs less to read
            from then on.
        orientation: as in `decode_image`.

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
    limits = {"max_pixels": info.max_pixels, "orientation": orientation}
    if info.source.paths(split) is not None:
        limits["max_bytes"] = MAX_FILE_BYTES
    source, chosen = info.source, np.arange(num_examples)
    if shots is not None:
        chosen = _first_of_each_class(source.labels(split), shots, seed, info)
    indices = tf.constant(chosen, tf.int64)
    paths, arrays = source.paths(split), source.arrays(split)
    if paths is not None:
        labels = _as_tensor(source.labels(split)[chosen])
        records = tf.constant([os.fsencode(paths[index]) for index in chosen])
        examples = Indexed(records, labels, indices, True, name, limits=limits)
    elif arrays is not None:
        images, labels, *weights = (part if shots is None else part[chosen] for part in arrays)
        labels = _as_tensor(_checked_labels(labels, info, split))
        weights = tuple(map(tf.constant, weights))
        return Indexed(tf.constant(images), labels, indices, False, name, weights)
    else:
        stream, num_bytes = source.stream(split), source.num_bytes(split)
        if shots is None and (num_bytes is None or num_bytes > MAX_INDEXED_BYTES):
            is_shuffled = num_bytes is not None
            return Streamed(stream, num_examples, info.num_classes, name, is_shuffled, limits)
        if shots is not None:
            is_chosen = tf.constant(np.isin(np.arange(num_examples), chosen))
            stream = stream.enumerate().filter(lambda index, _: is_chosen[index])
            stream = stream.map(lambda _, example: example)
        records, labels, *weights = map(list, zip(*stream.as_numpy_iterator(), strict=True))
        labels = _as_tensor(_checked_labels(labels, info, split))
        weights = tuple(map(tf.constant, weights))
        if isinstance(records[0], np.ndarray):
            if records[0].dtype != np.uint8:
                return Indexed(tf.constant(records), labels, indices, False, name, weights)
            return Indexed(_Pixels.join(records), labels, indices, False, name, weights)
        examples = Indexed(tf.constant(records), labels, indices, False, name, weights, limits)
    if as_pixels:
        pixels = _decode_all(
            examples.in_order(0), lambda place: examples.read(place).image(), len(examples)
        )
        if pixels is not None:
            return dataclasses.replace(examples, records=pixels, is_path=False)
    return examples
