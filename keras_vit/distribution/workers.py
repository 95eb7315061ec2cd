"""Several processes that train together, and how one's word reaches all of them.

Messages use the same collectives as gradients, so that nothing else has to be set up, and a lost
worker is noticed in the same way.

Imports nothing heavy (see `keras_vit.distribution.strategy`).
"""

import atexit
import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
from collections.abc import Callable


def _alone(content):
    return [content]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that train together, as one of them sees them.

    All of them must call the methods, in the same order.

    Args:
        index: of this process; the process 0 is the chief, which writes.
        number: of all.
        exchange: gives every worker the bytes of all, in the order of their indices.
    """

    index: int = 0
    number: int = 1
    exchange: Callable[[bytes], list[bytes]] = dataclasses.field(
        default=_alone, repr=False, compare=False
    )

    @property
    def is_chief(self):
        return self.index == 0

    def gather(self, value):
        """Every worker's value, which JSON must know; a list."""
        if self.number == 1:
            return [value]
        return [json.loads(content) for content in self.exchange(json.dumps(value).encode())]

    def gather_arrays(self, arrays):
        """Every worker's arrays, a list of dicts."""
        if self.number == 1:
            return [arrays]
        import numpy as np

        file = io.BytesIO()
        np.savez(file, **arrays)
        gathered = []
        for content in self.exchange(file.getvalue()):
            with np.load(io.BytesIO(content)) as archive:
                gathered.append({name: archive[name] for name in archive.files})
        return gathered

    @contextlib.contextmanager
    def together(self):
        """A block that fails in all workers if it fails in one; nothing in it may wait for others.

        Raises:
            TrainingError: where another worker has failed, with its reason.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        reasons = self.gather(None if error is None else str(error) or type(error).__name__)
        if error is not None:
            raise error
        for worker, reason in enumerate(reasons):
            if reason is not None:
                from keras_vit.errors import TrainingError

                raise TrainingError(f"worker {worker} of {self.number} cannot go on: {reason}")


@contextlib.contextmanager
def ending_at_once():
    """After an error in the block, one of several processes of JAX ends without JAX's farewell.

    JAX waits for all processes at the end of each, up to five minutes, and then aborts; and those
    that are still there wait for this one.  Where all of them leave together nothing is changed.
    """
    try:
        yield
    except BaseException as error:
        jax = sys.modules.get("jax")
        is_of_all = getattr(error, "is_of_all_workers", False)
        if jax is not None and jax.distributed.is_initialized() and not is_of_all:
            atexit.register(_end_at_once, _exit_code(error))
        raise


def of_all(error):
    """Marks an error that all workers raise at the same place, and returns it."""
    error.is_of_all_workers = True
    return error


def _exit_code(error):
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1


def _end_at_once(code):
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
