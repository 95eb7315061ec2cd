"""A place to train: how a model is made and trained there, and by which processes.

Imports nothing heavy (see `keras_vit.distribution.strategy`).
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from keras_vit.distribution.workers import Workers


def _nobody(error):
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a training runs.

    Args:
        name: one of `keras_vit.distribution.strategy.STRATEGIES`, never `"auto"`, or `"single"`.
        num_replicas: how many parts a batch is cut into; a batch size must be a multiple of it.
        workers: the processes that train together.
        data_shard: `(index, number)`: which part of each batch the training's data must have here;
            all of it where the strategy itself shares it out.
        make_scope: makes the context in which a model is made, trained and evaluated.
        find_lost: of an error of the backend's, `(which worker is lost, what is said about it)`, or
            None if it is another error.
    """

    name: str = "single"
    num_replicas: int = 1
    workers: Workers = Workers()
    data_shard: tuple[int, int] = (0, 1)
    make_scope: Callable[[], Any] = dataclasses.field(
        default=contextlib.nullcontext, repr=False, compare=False
    )
    find_lost: Callable[[Exception], tuple[str, str] | None] = dataclasses.field(
        default=_nobody, repr=False, compare=False
    )

    @contextlib.contextmanager
    def scope(self):
        """The context in which a model is made, trained and evaluated.

        Raises:
            TrainingError: if another worker is gone.
        """
        with self.make_scope():
            if self.workers.number == 1:
                yield
                return
            from keras_vit.errors import TrainingError

            try:
                yield
            except Exception as error:
                lost = self.find_lost(error)
                if lost is None:
                    raise
                which, reason = lost
                raise TrainingError(
                    f"worker {self.workers.index} of {self.workers.number} lost another worker "
                    f"({which}) and ends too; restart all of them, and training resumes from "
                    f"the last checkpoint. {reason}"
                ) from error
