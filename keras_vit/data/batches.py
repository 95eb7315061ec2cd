"""Batches of examples that can be read by their place, whose errors name the example.

An operation that fails in tf.data says which node of the graph it was, not which image; catching
that for each image costs a quarter of the time that decoding takes.  So examples are read without
names, those that fail are dropped, and each batch is compared with the places that it must have:
the first one that is missing is read again in the way that names it, which stops the data set.
None is left out: a gap is always an error.  It is for data sets that end: without an end, one in
which every example fails would be read for ever.
"""

import tensorflow as tf


def _missing(expected, places):
    """The first of the expected places that is not where it belongs, or -1."""
    gaps = tf.where(tf.not_equal(expected, places))
    return tf.cond(
        tf.size(gaps) > 0, lambda: expected[gaps[0, 0]], lambda: tf.constant(-1, tf.int64)
    )


def _stop(prepare, place):
    """Reads what failed again, now with its name in the error."""
    again = tf.nest.flatten(prepare(place, is_named=True))
    with tf.control_dependencies(again):
        number = tf.strings.as_string(place)
        message = ["example number ", number, " failed once and not again: a fault of this machine"]
        stopped = tf.debugging.Assert(False, [tf.strings.join(message)])
    with tf.control_dependencies([stopped]):
        return tf.constant(True)


def _compared(batches, batch_size, prepare):
    def compare(number, batch):
        places, *parts = batch
        expected = number * batch_size + tf.range(batch_size, dtype=tf.int64)
        missing = _missing(expected, places)
        whole = tf.cond(missing < 0, lambda: True, lambda: _stop(prepare, missing))
        with tf.control_dependencies([whole]):
            return tuple(tf.identity(part) for part in parts)

    return batches.enumerate().map(compare)


def _read(places, prepare):
    dataset = places.map(
        lambda place: (place, *prepare(place, is_named=False)), num_parallel_calls=tf.data.AUTOTUNE
    )
    return dataset.ignore_errors()


def finite_batches(prepare, batch_size, num_examples):
    """Batches of `prepare(place, is_named)` for the places 0 to `num_examples` - 1, then zeros.

    Args:
        prepare: a function from a scalar int64 to a tuple of tensors.  With `is_named` it must
            raise the error that names the example, wherever it raises without.
        batch_size: B.
        num_examples: how many there are; zeros fill the last batch.

    Returns:
        A `tf.data.Dataset` of known cardinality, of tuples of tensors (B, ...).
    """
    num_batches = -(-num_examples // batch_size)
    examples = _read(tf.data.Dataset.range(num_examples), prepare)
    spec = examples.element_spec[1:]
    # One batch of zeros more than is taken: where the last example is missing, it moves up.
    zeros = tf.data.Dataset.range(num_examples, (num_batches + 1) * batch_size).map(
        lambda place: (place, *(tf.zeros(part.shape, part.dtype) for part in spec))
    )
    batches = examples.concatenate(zeros).batch(batch_size, drop_remainder=True)
    batches = _compared(batches, batch_size, prepare).take(num_batches)
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches))
