"""The protocol of evaluators: everything that is reported about a model, in training and after."""

import dataclasses
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Evaluator(Protocol):
    """Measures a model.

    `keras_vit.finetune(..., evaluators=[...])` takes any object of this shape.  What `run` returns
    is logged as `name/key`, is in `metrics.json` as `metrics[name][key]`, and can be what a sweep
    maximises.  An evaluator whose attribute `dataset` is None is given a copy with the data set of
    the training.

    Attributes:
        name: Name of the evaluator, unique in a training.
    """

    name: str

    def run(self, model) -> dict[str, float]:
        """Measures a model.

        Args:
            model: A `keras.Model`, whose weights are left as they are.

        Returns:
            A dict from key to number.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """An evaluator that does not run with each report of a training.

    It runs with the first report of each period of `steps`, and with the last report.

        Every(steps=5000, evaluator=FewShot("cifar100"))

    Args:
        steps: Number of updates in a period.
        evaluator: `Evaluator`.

    Raises:
        ValueError: For a number of steps that is not positive.
    """

    steps: int
    evaluator: Any

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"`steps` must be positive. Received: {self.steps}")

    def is_due(self, step, last_step, report_steps):
        """Whether it runs with the report after `step` updates of `last_step`."""
        return step == last_step or step // self.steps > (step - report_steps) // self.steps


def check_evaluators(evaluators, reserved=()):
    """Raises unless these are evaluators with names of their own.

    Args:
        evaluators: Objects, each an `Evaluator` or an `Every`.
        reserved: Names that none may have.

    Raises:
        TypeError: For an object of another shape.
        ValueError: For a name that is taken.
    """
    taken = set(reserved)
    for evaluator in evaluators:
        evaluator = getattr(evaluator, "evaluator", evaluator)
        if not isinstance(evaluator, Evaluator) or isinstance(evaluator, type):
            raise TypeError(
                "an evaluator must have a `name` and a method `run(model)` that returns a dict. "
                f"Received: {evaluator!r}"
            )
        if not isinstance(evaluator.name, str) or evaluator.name in taken:
            raise ValueError(
                "each evaluator must have a name of its own, which is none of "
                f"{', '.join(reserved) or 'those of others'}. Received: {evaluator.name!r}"
            )
        taken.add(evaluator.name)
