"""A place to train: how a model is made and trained there, and by which processes.

Imports nothing heavy (see `keras_vit.training.strategy`).
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from absl import logging

from keras_vit.training import folder
from keras_vit.training.workers import Workers


def _nobody(error):
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a training runs.

    Args:
        name: one of `keras_vit.training.strategy.STRATEGIES`, never `"auto"`, or `"single"`.
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
            from keras_vit.training.callbacks import TrainingError

            try:
                yield
            except Exception as error:
                lost = self.find_lost(error)
                if lost is None:
                    raise
                which, reason = lost
                raise TrainingError(
                    f"worker {self.workers.index} of {self.workers.number} lost another worker "
                    f"({which}) and ends too; start all of them again, and they go on from the "
                    f"last state. {reason}"
                ) from error

    @contextlib.contextmanager
    def new_run(self, workdir, overwrite=False):
        """`folder.new_run` in the chief, the only one that writes; None in the other workers.

        Raises:
            TrainingError: in these, if the chief cannot begin.
        """
        with contextlib.ExitStack() as stack:
            temporary = None
            with self.workers.together():
                if self.workers.is_chief:
                    temporary = stack.enter_context(folder.new_run(workdir, overwrite))
            name = self.workers.gather(temporary and temporary.name)[0]
            if not (pathlib.Path(workdir) / name).exists():
                logging.warning(
                    "worker %d does not see the chief's folder %s: the run cannot be resumed "
                    "unless all workers share it, under the same path",
                    self.workers.index,
                    workdir,
                )
            yield temporary
            self._publish(stack)

    def _publish(self, stack):
        """Has the chief put the files in their places; no worker is done before they are there."""
        is_published = False
        try:
            with self.workers.together():
                stack.close()
                is_published = self.workers.is_chief
        except Exception as error:
            if not is_published or self.find_lost(error) is None:
                raise
            logging.warning("another worker was lost, but everything is written: %s", error)
