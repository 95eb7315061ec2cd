"""How much of a training's time goes by while it waits for data."""

import threading

import numpy as np
import tensorflow as tf


class WaitingShare:
    """Measures the share of the time that the consumer of a data set spends waiting for it.

    On the TensorFlow backend the next batch is fetched inside of the compiled step, where no
    callback sees it, so that the clock is part of the data set: one reading when a batch is asked
    for, one when it is there.  It costs two readings and a call of Python for each batch.

    The first fetch, which starts the pipeline, does not count.  Under `tf.distribute` it is the
    strategy's own prefetching that asks, so that the share is one from above.

    >>> waiting = WaitingShare()
    >>> batches = waiting.watch(tf.data.Dataset.range(3))
    >>> [int(batch) for batch in batches], 0 <= waiting.share <= 1
    ([0, 1, 2], True)
    """

    def __init__(self):
        self._lock = threading.Lock()
        self.reset()

    def reset(self):
        """Starts a new measurement; the next fetch is the first again."""
        with self._lock:
            self._start = self._end = None
            self._waited = 0.0

    def watch(self, dataset):
        """Returns the same data set with the clock in it; call it last, after `prefetch`."""
        asked = tf.data.Dataset.counter().map(lambda _: tf.timestamp())

        def read_clock(asked, element):
            first = tf.nest.flatten(element)[0]
            with tf.control_dependencies([first]):
                got = tf.timestamp()
            seen = tf.numpy_function(self._add, [asked, got], tf.int64)
            with tf.control_dependencies([seen]):
                return tf.nest.map_structure(tf.identity, element)

        return tf.data.Dataset.zip(asked, dataset).map(read_clock)

    def _add(self, asked, got):
        with self._lock:
            if self._start is None:
                self._start = got
            else:
                self._waited += got - asked
            self._end = got
        return np.int64(0)

    @property
    def seconds(self):
        """Seconds of waiting since the first fetch."""
        return self._waited

    @property
    def share(self):
        """The share of the time between the first fetch and the last; 0 before there are two."""
        if self._start is None or self._end <= self._start:
            return 0.0
        return float(min(1.0, self._waited / (self._end - self._start)))
