"""tf.data pipelines: training without end, evaluation in which each image counts once.

All randomness is a stateless function of (seed, epoch, example index).  An example's index is its
place in its split: of a folder the order of class and then file name, of a TFDS data set the order
in which it was written.

Data sets of two kinds are *indexed*, that is, any example can be read at once: folders, and TFDS
splits of at most `MAX_INDEXED_BYTES`, which are held in memory as encoded images, or as pixels
where all have the same small size.  They are shuffled by a pseudo-random permutation of the
indices and resume at any step in constant time.  Larger TFDS splits are *streamed* in the order in
which they were written (TFDS shuffles when it writes), through a shuffle buffer of `SHUFFLE_BUFFER`
encoded images; resuming reads and drops what comes before within the epoch.

Legend: `B` batch, `h w` pixels of the model's input.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from keras_vit.data import augment, batches, decode, preprocess
from keras_vit.data.datasets import DatasetInfo, FolderSource, resolve
from keras_vit.data.folders import image_files

__all__ = [
    "DatasetInfo",
    "evaluation_dataset",
    "example_indices",
    "image_files",
    "resolve",
    "training_dataset",
]

MAX_INDEXED_BYTES = 2**30
MAX_PIXEL_BYTES = 2**28
SHUFFLE_BUFFER = 16_384


@dataclasses.dataclass(frozen=True)
class _Indexed:
    """Examples in memory.

    Args:
        records: (n,) string, paths or encoded images, or uint8 (n, H, W, 3) pixels.
        labels: (n,) int32.
        indices: (n,) int64, the index of each example within its split.
        kind: "path", "encoded" or "pixels".
        name: what an error calls the split.
    """

    records: tf.Tensor
    labels: tf.Tensor
    indices: tf.Tensor
    kind: str
    name: str

    def __len__(self):
        return self.labels.shape[0]

    def shuffled(self, position, seed):
        """(epoch, place among the examples) of what is read `position`-th; scalars int64."""
        epoch, place = position // len(self), position % len(self)
        seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
        return epoch, tf.random.experimental.index_shuffle(place, seeds, len(self) - 1)

    def image(self, position, find_window=None, is_named=True):
        """Scalar int64 -> uint8 (H, W, 3), or the part of it in the window."""
        record = tf.gather(self.records, position)
        if self.kind == "pixels" or is_named and self.kind == "encoded":
            return _decoded(record, self.name, tf.gather(self.indices, position), find_window)
        encoded = tf.io.read_file(record) if self.kind == "path" else record
        if is_named:
            return decode.decode_image(encoded, name=record, find_window=find_window)
        return decode.decode_image_unnamed(encoded, find_window=find_window)


def _decoded(image, name, index, find_window=None):
    """What a source streams, encoded or pixels -> uint8 (H, W, 3), or the part in the window."""
    if image.dtype == tf.uint8:
        return image if find_window is None else preprocess.cut(image, find_window(image.shape[:2]))
    return decode.decode_image(image, name=_example_name(name, index), find_window=find_window)


def _example_name(name, index):
    return tf.strings.join([f"{name} example ", tf.strings.as_string(index)])


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


def _load(info, split, shots=None, seed=0):
    """Returns `_Indexed` examples, or None for a split that is too large for memory."""
    num_examples = info.num_examples(split)
    if num_examples < 1:
        raise ValueError(f"A split must have examples. Received: {info.name!r} {split!r}, empty")
    name = f"{info.name} {split}"
    chosen = np.arange(num_examples)
    if isinstance(info.source, FolderSource):
        files = info.source.splits[split]
        labels = np.array(files.labels)
        if shots is not None:
            chosen = _first_of_each_class(labels, shots, seed, info)
        paths = [files.paths[index].encode() for index in chosen]
        labels = tf.constant(labels[chosen], tf.int32)
        return _Indexed(tf.constant(paths), labels, tf.constant(chosen, tf.int64), "path", name)
    if shots is None and info.source.num_bytes(split) > MAX_INDEXED_BYTES:
        return None
    stream = info.source.stream(split)
    if shots is not None:
        labels = list(stream.map(lambda _, label: label).as_numpy_iterator())
        chosen = _first_of_each_class(np.array(labels), shots, seed, info)
        is_chosen = tf.constant(np.isin(np.arange(num_examples), chosen))
        stream = stream.enumerate().filter(lambda index, _: is_chosen[index])
        stream = stream.map(lambda _, example: example)
    height, width, _ = info.source.image_shape
    fits = bool(height and width) and len(chosen) * height * width * 3 <= MAX_PIXEL_BYTES
    as_pixels = fits or stream.element_spec[0].dtype == tf.uint8
    if as_pixels:
        stream = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(chosen), stream).map(
            lambda index, example: (
                _decoded(example[0], name, index),
                example[1],
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    records, labels = zip(*stream.as_numpy_iterator(), strict=True)
    labels = _checked_labels(labels, info, split)
    return _Indexed(
        tf.constant(np.stack(records) if as_pixels else list(records)),
        tf.constant(labels, tf.int32),
        tf.constant(chosen, tf.int64),
        "pixels" if as_pixels else "encoded",
        name,
    )


def _example_seed(seed, epoch, index):
    """The seed, int32 (2,), of what happens to one example in one epoch."""
    return tf.random.fold_in(tf.random.fold_in(tf.constant([seed, 0], tf.int32), epoch), index)


def _batch_seed(seed, step):
    """The seed, int32 (2,), of what happens to one batch."""
    return tf.random.fold_in(tf.constant([seed, 1], tf.int32), step)


def _indexed_examples(examples, seed, start):
    """Where each example from the `start`-th on stands, and what reads it.

    Returns:
        `(dataset, read)`: a data set without end, and the function from its elements to
        (a function from how to find the window to the uint8 image, int32 label, seed of the
        augmentation).
    """

    def read(position):
        epoch, shuffled = examples.shuffled(position, seed)
        example_seed = _example_seed(seed, epoch, tf.gather(examples.indices, shuffled))
        image = functools.partial(examples.image, shuffled)
        return image, tf.gather(examples.labels, shuffled), example_seed

    return tf.data.Dataset.range(start, np.iinfo(np.int64).max), read


def _streamed_examples(info, split, seed, start):
    """As `_indexed_examples`, for a split that is read in order through a shuffle buffer."""
    num_examples = info.num_examples(split)
    stream = info.source.stream(split).enumerate()

    def one_epoch(epoch):
        # Of this function's graph: the seed of the process has no say in the order.
        tf.random.set_seed(seed + 1)
        shuffled = stream.shuffle(SHUFFLE_BUFFER, seed=epoch, reshuffle_each_iteration=False)
        return shuffled.map(lambda index, example: (epoch, index, *example))

    def read(epoch, index, encoded, label):
        name = _example_name(f"{info.name} {split}", index)
        known = tf.logical_and(label >= 0, label < info.num_classes)
        with tf.control_dependencies(
            [tf.debugging.Assert(known, [tf.strings.join([name, ": label out of range"]), label])]
        ):
            label = tf.cast(label, tf.int32)
        image = functools.partial(_decoded, encoded, f"{info.name} {split}", index)
        return image, label, _example_seed(seed, epoch, index)

    epochs = tf.data.Dataset.range(start // num_examples, np.iinfo(np.int64).max)
    return epochs.flat_map(one_epoch).skip(start % num_examples), read


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # Each worker reads all of it and takes its share: the order must not depend on their number.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def _check_positive(**values):
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive. Received: {value}")


def training_dataset(
    info,
    split,
    preprocessing,
    *,
    batch_size,
    seed,
    augmentation="none",
    shots=None,
    num_replicas=1,
    start_step=0,
):
    """Returns shuffled and augmented batches without end.

    Every epoch holds each example once; a batch may span two epochs.  Order and augmentation are
    functions of (seed, epoch, example index), and the mixing of images one of (seed, step), so that
    a run that starts at `start_step` sees what an uninterrupted one would see.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        preprocessing: as in `preprocess.evaluation_image`.
        batch_size: the global batch size.
        seed: integer in [0, 2**31).
        augmentation: an `Augmentation` or a name in `preprocess.AUGMENTATIONS`.
        shots: keeps this many examples of each class, the first in a permutation that depends on
            `seed`; None keeps all.
        num_replicas: the batch size must be a multiple of it.
        start_step: the number of batches to leave out at the beginning.

    Returns:
        An infinite `tf.data.Dataset` of `(images, labels)`: float32 (B, h, w, 3) in the value range
        of `preprocessing`, and int32 (B,), or where `augmentation` mixes images, each class's share
        as float32 (B, C).

    Raises:
        ValueError: for an unknown split or augmentation, a batch size that the replicas do not
            divide, more shots than a class has, or labels that are no classes.
        tf.errors.InvalidArgumentError: while it is read, for an image that is not decoded; the
            message names it.
    """
    _check_positive(batch_size=batch_size, shots=shots, num_replicas=num_replicas)
    if batch_size % num_replicas:
        raise ValueError(
            "`batch_size` must be a multiple of the number of replicas. Received: "
            f"{batch_size} for {num_replicas}"
        )
    if not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be in [0, 2**31). Received: {seed}")
    if start_step < 0:
        raise ValueError(f"`start_step` must not be negative. Received: {start_step}")
    augmentation = preprocess.get_augmentation(augmentation)
    examples = _load(info, split, shots, seed)
    start = start_step * batch_size

    def prepare(image, label, example_seed):

        def find_window(size):
            return preprocess.training_window(size, example_seed, augmentation)

        # Where there is a crop, the rest of the image is not decoded.
        image = image(find_window if augmentation.area_range else None)
        image = preprocess.training_image_from_window(
            image, preprocessing, example_seed, augmentation
        )
        return image, label

    if examples is None:
        dataset, read = _streamed_examples(info, split, seed, start)
    else:
        dataset, read = _indexed_examples(examples, seed, start)
    dataset = dataset.map(
        lambda *element: prepare(*read(*element)), num_parallel_calls=tf.data.AUTOTUNE
    )
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if augmentation.mixes:

        def mix(step, batch):
            return augment.mix_batch(
                *batch,
                _batch_seed(seed, step),
                info.num_classes,
                mixup=augmentation.mixup,
                cutmix=augmentation.cutmix,
                partner=augmentation.mixup_partner,
            )

        dataset = dataset.enumerate(start_step).map(mix, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def example_indices(info, split, *, batch_size, seed, step, shots=None):
    """Which examples `training_dataset` has in the batch of a step.

    Args:
        info, split, batch_size, seed, shots: as in `training_dataset`.
        step: counted from 0.

    Returns:
        A list of batch_size integers, the places of the examples in their split.
    """
    examples = _load(info, split, shots, seed)
    start = step * batch_size
    if examples is None:
        stream, _ = _streamed_examples(info, split, seed, start)
        return [int(index) for _, index, *_ in stream.take(batch_size)]
    places = [
        examples.shuffled(tf.constant(position, tf.int64), seed)[1]
        for position in range(start, start + batch_size)
    ]
    return tf.gather(examples.indices, tf.stack(places)).numpy().tolist()


def evaluation_dataset(info, split, preprocessing, *, batch_size):
    """Returns each example of a split once, in order, in batches of equal size.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        preprocessing: as in `preprocess.evaluation_image`.
        batch_size: the global batch size.

    Returns:
        A finite `tf.data.Dataset` of known cardinality, of `(images, labels, mask)`: float32
        (B, h, w, 3) in the value range of `preprocessing`, int32 (B,), and float32 (B,), which is 1
        for an example and 0 for the zeros that fill the last batch.

    Raises:
        ValueError: for an unknown split, or labels that are no classes.
        tf.errors.InvalidArgumentError: while it is read, for an image that is not decoded; the
            message names it.
    """
    _check_positive(batch_size=batch_size)
    num_examples = info.num_examples(split)
    examples = _load(info, split)

    def prepare(image, label):
        return preprocess.evaluation_image(image, preprocessing), label, tf.constant(1.0)

    if examples is not None:

        def read(place, is_named):
            image = examples.image(place, is_named=is_named)
            return prepare(image, tf.gather(examples.labels, place))

        dataset = batches.finite_batches(read, batch_size, num_examples)
        return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())

    def read_element(index, example):
        image = _decoded(example[0], f"{info.name} {split}", index)
        return prepare(image, tf.cast(example[1], tf.int32))

    def pad(images, labels, mask):
        missing = batch_size - tf.shape(labels)[0]
        return tuple(
            tf.ensure_shape(
                tf.pad(part, [[0, missing]] + [[0, 0]] * (part.shape.rank - 1)),
                (batch_size, *part.shape[1:]),
            )
            for part in (images, labels, mask)
        )

    dataset = info.source.stream(split).enumerate()
    dataset = dataset.map(read_element, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size).map(pad)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())
