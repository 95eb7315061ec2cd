"""One worker of a test: trains the named cases under the strategy of its TF_CONFIG.

    python worker_program.py FOLDER CASE ...

Writes FOLDER/<case>-<worker>.npz with all that `replica_cases.run` gives.
"""

import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

from keras_vit.distribution.strategy import place

terminations = []
signal.signal(signal.SIGTERM, lambda *_: terminations.append(time.monotonic()))
placement = place("multiworker")

from tests import tiny  # noqa: E402
from tests.train_step import replica_cases  # noqa: E402  (strategy first)

PARTS = ("history", "results", "weights", "others")


def write(path, outcome):
    arrays = {
        f"{part}:{name}": value
        for part, values in zip(PARTS, outcome, strict=True)
        for name, value in values.items()
    }
    np.savez(path, **arrays)


def check_exchange(workers):
    """What is said between the threads of `tests/training/in_threads.py`, over the network."""
    values = [{"worker": worker, "text": "é" * 1000 * worker} for worker in range(workers.number)]
    assert workers.gather(values[workers.index]) == values
    (first, second) = workers.gather_arrays({"count": np.float32([workers.index, np.nan])})
    np.testing.assert_array_equal(first["count"], np.float32([0, np.nan]))
    np.testing.assert_array_equal(second["count"], np.float32([1, np.nan]))


def check_sigterm():
    """TensorFlow has a handler of its own, which is not heard of again."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    assert len(terminations) == 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def check_refusal_of_bfloat16():
    with (
        placement.scope(),
        pytest.raises(ValueError, match="send bfloat16 .* Received: dtype='bfloat16'; 'mixed_bfl"),
    ):
        tiny.make_model(dtype="bfloat16")


def main(folder, *names):
    check_sigterm()
    check_exchange(placement.workers)
    check_refusal_of_bfloat16()
    for name in names:
        with placement.scope():
            write(
                pathlib.Path(folder, f"{name}-{placement.workers.index}.npz"),
                replica_cases.run(name),
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
