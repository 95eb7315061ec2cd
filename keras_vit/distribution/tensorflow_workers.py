"""Several processes that train together by a `tf.distribute.MultiWorkerMirroredStrategy`."""

import re

import numpy as np
import tensorflow as tf

from keras_vit.distribution.workers import Workers

_WORD = 8  # bytes
_ABORTED = "Collective ops is aborted by: "
_TASK = re.compile(r"/job:\w+/(?:replica:\d+/)?task:\d+")


def make_workers(strategy, num_chiefs):
    """The `Workers` of a strategy.

    Args:
        strategy: of several workers.
        num_chiefs: number of tasks "chief" in the cluster, 0 or 1; without one it is the worker 0.
    """
    resolver = strategy.cluster_resolver
    index = 0 if resolver.task_type == "chief" else (resolver.task_id or 0) + num_chiefs
    number = strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)
    return Workers(index=index, number=number, exchange=_exchange_over(strategy, index))


def _exchange_over(strategy, index):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
    def gather(words):
        return strategy.gather(strategy.run(lambda: words), axis=0)

    def exchange(content):
        padded = content + bytes(-len(content) % _WORD)
        header = [index, len(content)]
        words = gather(np.concatenate([header, np.frombuffer(padded, np.int64)])).numpy()
        contents, place = {}, 0
        # Each replica of a worker sends the same.
        while place < len(words):
            worker, size = (int(word) for word in words[place : place + 2])
            end = place + 2 - (-size // _WORD)
            contents[worker] = words[place + 2 : end].tobytes()[:size]
            place = end
        return [contents[worker] for worker in sorted(contents)]

    return exchange


def find_lost(error):
    """`Placement.find_lost` of the collective operations' errors."""
    if not isinstance(error, tf.errors.OpError):
        return None
    reason, task = _collective_failure(error.message)
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError)
    if reason is None and not isinstance(error, gone):
        return None
    which = task or "TensorFlow does not say which"
    return which, f"TensorFlow says: {reason or type(error).__name__}"


def _collective_failure(message):
    """The line of an error's message that is about the other workers, and the task that is lost.

    Each is None where it is not there.  A worker that passes on what it heard of another one comes
    after that in the message.
    """
    lines = [line.strip() for line in message.splitlines()]
    place = next((i for i, line in enumerate(lines) if line.startswith(_ABORTED)), None)
    if place is None:
        return None, None
    task = _TASK.search("\n".join(lines[place:]))
    return lines[place].rpartition(_ABORTED)[2], task and task[0]
