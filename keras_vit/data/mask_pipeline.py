"""tf.data pipelines of images with masks, as `keras_vit.data.pipeline` has them of classes.

Order and augmentation are functions of (seed, epoch, example index).

Shapes: `B` batch, `h w` pixels of the model's input, `C` channels, `H W` pixels of an image.
"""

import functools
import os

import tensorflow as tf

from keras_vit.data import batches, examples
from keras_vit.data.images import joint
from keras_vit.data.images.image_problems import MAX_FILE_BYTES
from keras_vit.data.pipeline import check_batches, example_seed
from keras_vit.data.sources.masks import decode_mask


def _load(info, split, orientation):
    """`examples.Indexed`, whose labels are places in the masks, and a reader of these."""
    part = info.source.splits[split]
    size = info.num_examples(split)
    if size < 1:
        raise ValueError(f"A split must have examples. Received: {info.name!r} {split!r}, empty")
    records, masks = (
        tf.constant([os.fsencode(item) if part.is_path else item for item in items])
        for items in (part.images, part.masks)
    )
    limits = {"max_pixels": info.max_pixels, "orientation": orientation}
    if part.is_path:
        limits["max_bytes"] = MAX_FILE_BYTES
    places = tf.range(size)
    name = f"{info.name} {split}"
    found = examples.Indexed(
        records, places, tf.cast(places, tf.int64), part.is_path, name, limits=limits
    )

    def read_mask(place, image):
        record = tf.gather(masks, place)
        if part.is_path:
            encoded, called = tf.io.read_file(record), record
        else:
            encoded = record
            called = tf.strings.join([name, " mask ", tf.strings.as_string(place)])
        return decode_mask(encoded, info.source.mask_format, called, tf.shape(image)[:2])

    return found, read_mask


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
    scales=joint.SCALES,
    mirror=joint.MIRROR,
):
    """Returns shuffled and augmented batches without end.

    Args:
        info: A `DatasetInfo` of `keras_vit.data.catalog.masks.resolve_masks`.
        split, preprocessing, batch_size, seed, num_replicas, start_step, shard: As in
            `keras_vit.data.pipeline.training_dataset`.
        augmentation: "none": images and masks are changed together, by the next two.
        shots, sampling: None.
        scales, mirror: As in `keras_vit.data.images.joint.training_pair`.

    Returns:
        An infinite `tf.data.Dataset` of (float32 (B, h, w, C), uint8 (B, h, w)).

    Raises:
        ValueError: For an augmentation of single images, shots, sampling, or numbers out of range.
        tf.errors.InvalidArgumentError: For an image or a mask that cannot be read, while it is.
    """
    if augmentation != "none" or shots is not None or sampling is not None:
        raise ValueError(
            "a segmentation changes images and masks together: it has `scale_range` and `mirror` "
            "in the place of `augmentation`, and no `shots` or `sampling`. Received: augmentation="
            f"{augmentation!r}, shots={shots}, sampling={sampling!r}"
        )
    check_batches(batch_size, seed, num_replicas, start_step, shard)
    source, read_mask = _load(info, split, preprocessing.orientation)

    def prepare(position, is_named):
        example = source.read(position, seed=seed)
        image = example.image(is_named=is_named)
        mask = tf.cond(
            position < 0,  # a blank
            lambda: tf.zeros(tf.shape(image)[:2], tf.uint8),
            lambda: read_mask(example.label, image),
        )
        seeds = example_seed(seed, example.epoch, example.index)
        return joint.training_pair(image, mask, preprocessing, seeds, scales, mirror)

    dataset = batches.endless_batches(
        functools.partial(source.shuffled, seed=seed),
        source.blank,
        prepare,
        batch_size,
        start_step * batch_size,
        shard,
    )
    return dataset.prefetch(2).with_options(batches.make_options())


def evaluation_pairs(info, split, preprocessing):
    """Returns each image of a split once with its mask, in order and as they are.

    Args:
        info, split, preprocessing: As in `training_dataset`.

    Returns:
        A finite `tf.data.Dataset` of (uint8 (H, W, 3), uint8 (H, W)).

    Raises:
        tf.errors.InvalidArgumentError: For an image or a mask that cannot be read, while it is.
    """
    source, read_mask = _load(info, split, preprocessing.orientation)

    def read(position):
        example = source.read(position)
        image = example.image()
        return image, read_mask(example.label, image)

    pairs = source.in_order(0).map(read, num_parallel_calls=batches.NUM_THREADS)
    return pairs.prefetch(2).with_options(batches.make_options())
