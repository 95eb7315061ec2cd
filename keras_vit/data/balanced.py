"""Balanced sampling: every class equally often, as a function of (seed, position) alone.

Positions come in rounds of K, the number of classes that have images: each round has every class
once, in an order of its own.  A class's images follow one another in a permutation that is new each
time that all of them were seen.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_vit.data.examples import Indexed


@dataclasses.dataclass(frozen=True)
class Balanced(Indexed):
    """`Indexed` examples whose order in training has every class equally often.

    The epoch of an example, by which it is augmented, is the number of times that all of its class
    were seen.

    Args:
        order: int64 (n,), the places of the examples, one class behind the other.
        starts: int64 (K,), where each class begins in `order`.
        counts: int64 (K,), how many examples it has.
    """

    order: tf.Tensor | None = None
    starts: tf.Tensor | None = None
    counts: tf.Tensor | None = None

    def read(self, position, seed=None):
        """Reads an element, in the order of the split, or with a seed in the balanced one."""
        if seed is None:
            return super().read(position)
        num_classes = self.counts.shape[0]
        turn, place = position // num_classes, position % num_classes
        chosen = _shuffled(place, [seed, turn], num_classes - 1)
        count = tf.gather(self.counts, chosen)
        epoch, place = turn // count, turn % count
        class_seed = tf.constant(seed, tf.int64) + (chosen + 1) * 2**31  # none is that of a turn
        place = _shuffled(place, [class_seed, epoch], count - 1)
        place = tf.gather(self.order, tf.gather(self.starts, chosen) + place)
        return self.example(position, place, epoch)


def _shuffled(place, seeds, largest):
    seeds = tf.stack([tf.cast(seed, tf.int64) for seed in seeds])
    return tf.random.experimental.index_shuffle(place, seeds, tf.cast(largest, tf.int64))


def balanced(examples, info, split):
    """The examples of a split as `Balanced`.

    Args:
        examples: `Indexed`.
        info: A `DatasetInfo`, for errors.
        split: Name of the split, for errors.

    Raises:
        ValueError: For examples that are read as a stream, or that have not one class each.
    """
    if not isinstance(examples, Indexed) or examples.labels.shape.rank != 1:
        raise ValueError(
            "sampling='balanced' needs images of one class each, of which any can be read at once: "
            f"a folder, a list, arrays, or a TFDS split of at most 1 GiB. Received: {info.name!r} "
            f"{split}"
        )
    labels = examples.labels.numpy()
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    fields = {field.name: getattr(examples, field.name) for field in dataclasses.fields(examples)}
    return Balanced(
        **fields,
        order=tf.constant(np.argsort(labels, kind="stable"), tf.int64),
        starts=tf.constant(np.cumsum(counts) - counts, tf.int64),
        counts=tf.constant(counts, tf.int64),
    )
