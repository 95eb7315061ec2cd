"""Several processes that train together on JAX: the hosts of a TPU pod slice, for example."""

import os
import re

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from keras_vit.distribution.signals import take_back_sigterm
from keras_vit.distribution.workers import Workers

ADDRESSES, NUMBER, INDEX = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
_HEARTBEAT_SECONDS = 30  # until a process that says nothing is lost
_PATIENCE_SECONDS = 24 * 3600  # with processes that are started later
_HEAD_BYTES = 256
_LOST = re.compile(r"[^\n]*\b(?:Gloo|NCCL|coordination service|heartbeat)\b[^\n]*")


def join():
    """Finds the other processes, if Keras's environment variables name some.

    Raises:
        ValueError: for variables that do not fit together, or if JAX has been used before.
        ConnectionError: if they cannot meet.
    """
    number = os.environ.get(NUMBER, "1")
    if number == "1" or jax.distributed.is_initialized():
        return
    addresses, index = os.environ.get(ADDRESSES, ""), os.environ.get(INDEX, "")
    chief = addresses.split(",")[0]
    is_place = number.isdecimal() and index.isdecimal() and int(index) < int(number)
    if not (is_place and ":" in chief):
        raise ValueError(
            f"{NUMBER}, {INDEX} (counted from 0) and {ADDRESSES} (host:port of the process 0, or "
            f"of all) must fit together. Received: {number!r}, {index!r} and {addresses!r}"
        )
    logging.info("waiting for all of the %s processes: %s", number, addresses)
    try:
        jax.distributed.initialize(
            chief,
            int(number),
            int(index),
            initialization_timeout=_PATIENCE_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f"the processes of JAX cannot meet at {chief}: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"several processes of JAX must be named before it computes anything. Received: {error}"
        ) from error
    # JAX has put a handler of its own in that place.
    take_back_sigterm()


def make_workers():
    """The `Workers` that JAX knows of."""
    return Workers(index=jax.process_index(), number=jax.process_count(), exchange=_exchange)


def _exchange(content):
    # What is said after each step is short: it goes with its length, in one round.
    head = np.zeros(_HEAD_BYTES, np.uint8)
    head[:8] = np.frombuffer(len(content).to_bytes(8, "little"), np.uint8)
    head[8 : 8 + len(content)] = np.frombuffer(content[: _HEAD_BYTES - 8], np.uint8)
    heads = multihost_utils.process_allgather(head)
    sizes = [int.from_bytes(row[:8].tobytes(), "little") for row in heads]
    if max(sizes) <= _HEAD_BYTES - 8:
        return [row[8 : 8 + size].tobytes() for row, size in zip(heads, sizes, strict=True)]
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    gathered = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(gathered, sizes, strict=True)]


def find_lost(error):
    """`Placement.find_lost` of the collective operations' errors."""
    if type(error) not in (ValueError, jax.errors.JaxRuntimeError):
        return None
    line = _LOST.search(str(error))
    return line and ("JAX does not say which", f"JAX says: {line[0].strip()}")
