"""Batches whose errors name the example that failed.

An operation that fails in tf.data says which node of the graph it was, not which image; catching
that for each image costs a quarter of the time that decoding takes.  So batches are read without
names, those that fail are dropped, and each that comes must be the next one: where it is not, the
examples of the missing one are read again in the way that names them, which stops the data set.
None is left out: a gap is always an error.

Without an end, a data set whose examples all fail would be dropped for ever.  So a batch of blanks,
which do not fail, follows every `_BLANK_EVERY` batches, and is taken out again.

Elements are tuples, or single tensors, that begin with a position, scalar int64, counted from 0 and
negative for a blank.
"""

import os

import numpy as np
import tensorflow as tf

NUM_THREADS = os.cpu_count()
_BLANK_EVERY = 64


def make_options():
    """The `tf.data.Options` of all our data sets."""
    options = tf.data.Options()
    options.deterministic = True
    # They say their number of threads themselves: the thread that tunes may miss that its iterator
    # is given up, whose destruction then waits for it for up to a minute (TF 2.21: `IsCancelled` is
    # true only after the callbacks).
    options.autotune.enabled = False
    # Each worker reads all of it and takes its share: the order must not depend on their number.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def _stop(elements, prepare, position):
    """Reads what failed again, now with names in the errors."""
    named = elements.map(lambda *element: prepare(*element, is_named=True))
    count = named.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)
    message = tf.strings.join(
        [
            *("one of ", tf.strings.as_string(count), " examples from number "),
            *(
                tf.strings.as_string(position),
                " failed once and not again: a fault of this machine",
            ),
        ]
    )
    stopped = tf.debugging.Assert(False, [message])
    with tf.control_dependencies([stopped]):
        return tf.constant(True)


def _numbered(elements_from, elements, blank, prepare, batch_size, start, stride, num_batches=None):
    """Batches of (positions, *prepared) but for those of blanks alone.

    They begin at the positions start, start + stride, ...; `num_batches` None stands for no end.
    """
    pattern = np.zeros((_BLANK_EVERY + 1) * batch_size, np.int64)
    pattern[-batch_size:] = 1
    elements = tf.data.Dataset.choose_from_datasets(
        [elements, tf.data.Dataset.from_tensors(blank).repeat()],
        tf.data.Dataset.from_tensor_slices(pattern).repeat(),
    )
    if num_batches is not None:
        # One batch of blanks more than will be taken: where the last one is missing, it moves up.
        num_blank = num_batches // _BLANK_EVERY + 1
        elements = elements.take((num_batches + num_blank) * batch_size)

    def read(*element):
        return element[0], *prepare(*element, is_named=False)

    # `map` and `batch` next to each other are one operation to tf.data: no example is copied twice.
    batches = elements.map(read, num_parallel_calls=NUM_THREADS)
    batches = batches.batch(batch_size, drop_remainder=True).ignore_errors()

    def compare(count, batch):
        group, place = count // (_BLANK_EVERY + 1), count % (_BLANK_EVERY + 1)
        position = group * _BLANK_EVERY + tf.minimum(place, _BLANK_EVERY - 1)
        position = start + position * stride
        expected = tf.where(place < _BLANK_EVERY, position, -1)
        is_next = tf.cond(
            tf.equal(batch[0][0], expected),
            lambda: True,
            lambda: _stop(elements_from(position).take(batch_size), prepare, position),
        )
        with tf.control_dependencies([is_next]):
            return tuple(tf.identity(part) for part in batch)

    batches = batches.enumerate().map(compare)
    return batches.filter(lambda positions, *_: positions[0] >= 0)


def endless_batches(elements_from, blank, prepare, batch_size, start, shard=(0, 1)):
    """Batches without end of `prepare(*element, is_named)`.

    Args:
        elements_from: a function from a position, an integer or a scalar int64, to the
            `tf.data.Dataset` without end of the elements from there on.
        blank: an element with a negative position, which `prepare` must take without failing.
        prepare: a function to a tuple of tensors.  With `is_named` it must raise the error that
            names the example, wherever it raises without.
        batch_size: B.
        start: the position of the first example, a multiple of B.
        shard: `(index, number)`: reads that part of each batch only, of B / number examples.

    Returns:
        A `tf.data.Dataset` of tuples of tensors (B / number, ...).
    """
    index, number = shard
    size = batch_size // number
    elements = elements_from(start)
    if number > 1:
        elements = elements.filter(lambda *element: element[0] % batch_size // size == index)
    first = start + index * size
    batches = _numbered(elements_from, elements, blank, prepare, size, first, batch_size)
    return batches.map(lambda _, *parts: parts)


def finite_batches(elements_from, blank, prepare, batch_size, num_examples):
    """Batches of `prepare(*element, is_named)` for each element once, the last filled with zeros.

    Args:
        elements_from, blank, prepare, batch_size: as in `endless_batches`, but that the data sets
            end with position `num_examples` - 1.
        num_examples: how many there are.

    Returns:
        A `tf.data.Dataset` of known cardinality, of tuples of tensors (B, ...).
    """
    num_batches = -(-num_examples // batch_size)

    def without_blanks(positions, *parts):
        def is_real(part):
            return tf.reshape(positions >= 0, (batch_size, *[1] * (part.shape.rank - 1)))

        return tf.cond(
            positions[-1] < 0,
            lambda: tuple(tf.where(is_real(p), p, tf.zeros_like(p)) for p in parts),
            lambda: tuple(tf.identity(part) for part in parts),
        )

    elements = elements_from(0).concatenate(tf.data.Dataset.from_tensors(blank).repeat())
    batches = _numbered(
        elements_from, elements, blank, prepare, batch_size, 0, batch_size, num_batches
    )
    batches = batches.take(num_batches).map(without_blanks)
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches))
