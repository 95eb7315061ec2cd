"""Batches whose errors name the example that failed.

An operation that fails in tf.data says which node of the graph it was, not which image; catching
that for each image costs a quarter of the time that decoding takes.  So batches are read without
names, those that fail are dropped, and each that comes must be the next one: where it is not, the
examples of the missing one are read again in the way that names them, which stops the data set.
None is left out: a gap is always an error.

Without an end, a data set whose examples all fail would be dropped for ever.  So a batch of blanks,
which do not fail, follows every `_BLANK_EVERY` batches, and is taken out again.  With an end, a
batch that is not read follows the last one.

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
    # The examples are what is done in parallel, not the pixels of one.
    options.threading.max_intra_op_parallelism = 1
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


def _chosen(elements, blank, pattern):
    """The next element where the pattern has 0, a blank where it has 1.

    The pattern goes on where a source fails, so that one that fails for ever does not stop it.
    """
    blanks = tf.data.Dataset.from_tensors(blank).repeat()
    return tf.data.Dataset.choose_from_datasets([elements, blanks], pattern)


def _read(elements, prepare, batch_size):
    """Batches of (positions, *prepared), without those in which an element fails."""

    def read(*element):
        return element[0], *prepare(*element, is_named=False)

    # `map` and `batch` next to each other are one operation to tf.data: no example is copied twice.
    batches = elements.map(read, num_parallel_calls=NUM_THREADS)
    return batches.batch(batch_size, drop_remainder=True).ignore_errors()


def _without_gaps(batches, find_position, elements_from, prepare, batch_size):
    """The same batches, until one of them is not the next.

    Args:
        batches: of (positions, *prepared).
        find_position: from a count to where that batch must begin, and to where the batch begins
            that is missing if it does not; scalars int64.
        elements_from, prepare, batch_size: as in `endless_batches`.
    """

    def compare(count, batch):
        expected, position = find_position(count)
        is_next = tf.cond(
            tf.equal(batch[0][0], expected),
            lambda: True,
            lambda: _stop(elements_from(position).take(batch_size), prepare, position),
        )
        with tf.control_dependencies([is_next]):
            return tuple(tf.identity(part) for part in batch)

    return batches.enumerate().map(compare)


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
    pattern = np.zeros((_BLANK_EVERY + 1) * size, np.int64)
    pattern[-size:] = 1
    elements = _chosen(elements, blank, tf.data.Dataset.from_tensor_slices(pattern).repeat())

    def find_position(count):
        group, place = count // (_BLANK_EVERY + 1), count % (_BLANK_EVERY + 1)
        batch = group * _BLANK_EVERY + tf.minimum(place, _BLANK_EVERY - 1)
        position = start + index * size + batch * batch_size
        return tf.where(place < _BLANK_EVERY, position, -1), position

    batches = _read(elements, prepare, size)
    batches = _without_gaps(batches, find_position, elements_from, prepare, size)
    batches = batches.filter(lambda positions, *_: positions[0] >= 0)
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

    num_blank = num_batches * batch_size - num_examples
    pattern = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat(num_examples)
    pattern = pattern.concatenate(
        tf.data.Dataset.from_tensors(tf.constant(1, tf.int64)).repeat(num_blank)
    )
    elements = _chosen(elements_from(0), blank, pattern)
    batches = _read(elements, prepare, batch_size)
    batches = batches.concatenate(_not_read(batches.element_spec))
    batches = _without_gaps(
        batches, lambda count: (count * batch_size,) * 2, elements_from, prepare, batch_size
    )
    batches = batches.take(num_batches).map(without_blanks)
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches))


def _not_read(element_spec):
    """One batch with negative positions and else zeros."""

    def make(_):
        positions, *parts = (tf.zeros([n or 1 for n in s.shape], s.dtype) for s in element_spec)
        return positions - 1, *parts

    return tf.data.Dataset.range(1).map(make)
