"""tf.data pipelines: training without end, evaluation in which each image counts once.

All randomness is a stateless function of (seed, epoch, example index).  An example's index is its
place in its split: of a folder the order of class and then file name, of a TFDS data set the order
in which it was written.

Data sets of two kinds are *indexed*, that is, any example can be read at once: folders, and TFDS
splits of at most `examples.MAX_INDEXED_BYTES`, which are held in memory as encoded images.  They
are shuffled by a pseudo-random permutation of the indices and resume at any step in constant time.
For training they are decoded once, where their pixels fit in memory too (`MAX_PIXEL_BYTES`).
Larger TFDS splits are *streamed* in the order in which they were written (TFDS shuffles when it
writes), through a shuffle buffer of `SHUFFLE_BUFFER` encoded images; resuming reads and drops what
comes before within the epoch.

A data set of the user's (`keras_vit.data.sources.streams`) is read in its own order, without
shuffling.

Legend: `B` batch, `h w` pixels of the model's input, `C` channels, `K` classes.
"""

import functools
import numbers

import tensorflow as tf
from absl import logging

from keras_vit.data import batches, examples
from keras_vit.data.balanced import balanced
from keras_vit.data.catalog.folders import image_files
from keras_vit.data.catalog.resolve import DatasetInfo, resolve
from keras_vit.data.images import preprocess, randaugment

__all__ = [
    "DatasetInfo",
    "evaluation_dataset",
    "example_indices",
    "image_files",
    "resolve",
    "training_dataset",
]

_PREFETCHED = 2  # batches


def example_seed(seed, epoch, index):
    """The seed, int64 (2,), of what happens to one example in one epoch: all three folded in."""
    with tf.init_scope():  # the same for all examples
        first = tf.random.fold_in(tf.constant([seed, 0], tf.int32), tf.constant(0, tf.int64))[0]
    return tf.random.fold_in(tf.stack([first.numpy(), epoch]), index)


def _batch_seed(seed, step):
    """The seed, int32 (2,), of what happens to one batch."""
    return tf.random.fold_in(tf.constant([seed, 1], tf.int32), step)


def _check_positive(**values):
    for name, value in values.items():
        if value is not None and not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"`{name}` must be positive. Received: {value}")


def _check_ready(source, info, split, preprocessing, augmentation=None):
    """Raises ValueError where images go into the model as they are and are not of its size."""
    if not source.is_ready:
        return
    records = source.stream.element_spec[0] if hasattr(source, "stream") else source.records
    shape, size = tuple(records.shape[-3:]), tuple(preprocessing.image_size)
    if shape[:2] != size:
        raise ValueError(
            "Images of floating-point numbers go into the model as they are, so they must have its "
            f"size {size}. Received: {shape} for {info.name!r} {split}; resize them, or pass uint8"
        )
    if augmentation is not None and augmentation.changes_images:
        logging.warning(
            "images of floating-point numbers go into the model as they are: the augmentation of "
            "single images is not applied to %r %s; pass uint8 pixels for it",
            *(info.name, split),
        )


def check_batches(batch_size, seed, num_replicas, start_step, shard):
    """Raises ValueError for what `training_dataset` does not take."""
    _check_positive(batch_size=batch_size, num_replicas=num_replicas)
    if batch_size % num_replicas:
        raise ValueError(
            "`batch_size` must be a multiple of the number of replicas. Received: "
            f"{batch_size} for {num_replicas}"
        )
    index, number = shard
    if not 0 <= index < number or batch_size % number:
        raise ValueError(
            "`shard` must be (index, number), the number a divisor of `batch_size`. Received: "
            f"{shard} for {batch_size}"
        )
    if not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be in [0, 2**31). Received: {seed}")
    if start_step < 0:
        raise ValueError(f"`start_step` must not be negative. Received: {start_step}")


def training_dataset(
    info,
    split,
    preprocessing,
    *,
    batch_size,
    seed,
    augmentation="none",
    shots=None,
    sampling=None,
    num_replicas=1,
    start_step=0,
    shard=(0, 1),
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
        augmentation: what `augmentation_presets.get_augmentation` takes: a name, an operation, or a
            tuple of operations.
        shots: keeps this many examples of each class, the first in a permutation that depends on
            `seed`; None keeps all.
        sampling: `"balanced"` has every class equally often (`keras_vit.data.balanced`); None has
            each example once in an epoch.
        num_replicas: the batch size must be a multiple of it.
        start_step: the number of batches to leave out at the beginning.
        shard: `(index, number)`: gives that part of each batch only, B / number examples, for one
            of several processes.  Nothing else is decoded, unless `augmentation` mixes images.

    Returns:
        An infinite `tf.data.Dataset` of `(images, labels)`: float32 (B, h, w, C) in the value range
        of `preprocessing`, and int32 (B,), or where `augmentation` mixes images, each class's share
        as float32 (B, K), as they are too where the source has such labels.  Where the source has
        weights, they are the third, float32 (B,).

    Raises:
        ValueError: for an unknown split or augmentation, a batch size that the replicas or the
            shards do not divide, more shots than a class has, labels that are no classes, images
            of another shape than the model's where they are ready for it, or weights and an
            augmentation that mixes images.
        tf.errors.InvalidArgumentError: for an image that is not decoded, now or while it is read;
            the message names it.
    """
    _check_positive(shots=shots)
    check_batches(batch_size, seed, num_replicas, start_step, shard)
    index, number = shard
    augmentation = preprocess.get_augmentation(augmentation, info.augmentation)
    orientation = preprocessing.orientation
    source = examples.load(
        info, split, shots=shots, seed=seed, as_pixels=True, orientation=orientation
    )
    if sampling is not None:
        source = balanced(source, info, split)
    _check_ready(source, info, split, preprocessing, augmentation)

    def prepare(*element, is_named):
        example = source.read(*element, seed=seed)
        if source.is_ready:
            return example.image(is_named=is_named), example.label, *example.weight
        seeds = preprocess.training_seeds(example_seed(seed, example.epoch, example.index))

        def find_window(size):
            return preprocess.training_window(size, seeds, augmentation)

        # Where there is a crop, the rest of the image is not decoded.
        image = example.image(find_window if augmentation.cuts_source else None, is_named=is_named)
        image = preprocess.training_image_from_window(image, preprocessing, seeds, augmentation)
        return image, example.label, *example.weight

    dataset = batches.endless_batches(
        functools.partial(source.shuffled, seed=seed),
        source.blank,
        prepare,
        batch_size,
        start_step * batch_size,
        (0, 1) if augmentation.mixes else shard,
    )
    if augmentation.mixes:
        size = batch_size // number

        if len(dataset.element_spec) > 2:
            raise ValueError(
                "An augmentation that mixes images needs data without weights. Received: "
                f"{info.name!r} with weights and {augmentation}"
            )

        def mix(step, batch):
            mixed = randaugment.mix_batch(
                *batch,
                _batch_seed(seed, step),
                info.num_classes,
                **augmentation.mix_arguments(),
            )
            return tuple(part[index * size : (index + 1) * size] for part in mixed)

        dataset = dataset.enumerate(start_step).map(mix, num_parallel_calls=batches.NUM_THREADS)
    return dataset.prefetch(_PREFETCHED).with_options(batches.make_options())


def example_indices(info, split, *, batch_size, seed, step, shots=None, sampling=None):
    """Which examples `training_dataset` has in the batch of a step.

    Args:
        info, split, batch_size, seed, shots, sampling: as in `training_dataset`.
        step: counted from 0.

    Returns:
        A list of batch_size integers, the places of the examples in their split.
    """
    source = examples.load(info, split, shots=shots, seed=seed)
    if sampling is not None:
        source = balanced(source, info, split)
    elements = source.shuffled(step * batch_size, seed).take(batch_size)
    return list(
        elements.map(lambda *element: source.read(*element, seed=seed).index).as_numpy_iterator()
    )


def evaluation_dataset(info, split, preprocessing, *, batch_size, repeated=False):
    """Returns each example of a split once, in order, in batches of equal size.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        preprocessing: as in `preprocess.evaluation_image`.
        batch_size: the global batch size.
        repeated: whether it will be read several times: images are then decoded once and for all,
            as for training, if they fit in memory.

    Returns:
        A finite `tf.data.Dataset` of known cardinality, of `(images, labels, mask)`: float32
        (B, h, w, C) in the value range of `preprocessing`, int32 (B,), and float32 (B,), which is 1
        for an example and 0 for the zeros that fill the last batch.

    Raises:
        ValueError: for an unknown split, or labels that are no classes.
        tf.errors.InvalidArgumentError: for an image that is not decoded, while it is read or, with
            `repeated`, before; the message names it.
    """
    _check_positive(batch_size=batch_size)
    orientation = preprocessing.orientation
    source = examples.load(info, split, as_pixels=repeated, orientation=orientation)
    _check_ready(source, info, split, preprocessing)

    def prepare(*element, is_named):
        example = source.read(*element)
        image = example.image(is_named=is_named)
        if not source.is_ready:
            image = preprocess.evaluation_image(image, preprocessing)
        return image, example.label, tf.constant(1.0)

    dataset = batches.finite_batches(
        source.in_order, source.blank, prepare, batch_size, len(source)
    )
    return dataset.prefetch(_PREFETCHED).with_options(batches.make_options())
