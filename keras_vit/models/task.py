"""What the outputs of a model mean: one class, several labels, or values.

Imports nothing heavy.
"""

import dataclasses
import math

from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION, TASKS

# What makes an answer of the logits.
ACTIVATIONS = {CLASSIFICATION: "softmax", MULTILABEL: "sigmoid", REGRESSION: "none"}
# The probability from which a label is given, where none was chosen.
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is for.  It goes with the model into `.keras` files and exports.

    Args:
        kind: `"classification"` (one class an image), `"multilabel"` (any number of labels) or
            `"regression"` (a value for each output).
        thresholds: Of several labels: for each, the probability in [0, 1] from which it is given;
            None takes 0.5.
        temperature: Of a classification: what its logits are divided by before the softmax,
            positive (arXiv:1706.04599, section 4.2); None is 1.
        mean: Of a regression that is being trained: for each output, what is added to it after it
            was multiplied by `scale`; None is 0.  At the end the head takes both over.
        scale: Of a regression that is being trained, positive; None is 1.

    Raises:
        ValueError: For an unknown kind, a number out of range, or one that is of another kind.
    """

    kind: str = CLASSIFICATION
    thresholds: tuple[float, ...] | None = None
    temperature: float | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.kind not in TASKS:
            raise ValueError(f"`kind` must be one of {TASKS}. Received: {self.kind!r}")
        for field, kind in _KINDS.items():
            if getattr(self, field) is not None and self.kind != kind:
                raise ValueError(f"`{field}` is of the task {kind!r}. Received: {self.kind!r}")
        if self.thresholds is not None:
            thresholds = tuple(float(value) for value in self.thresholds)
            if not all(0 <= value <= 1 for value in thresholds):
                raise ValueError(f"`thresholds` must be in [0, 1]. Received: {thresholds}")
            object.__setattr__(self, "thresholds", thresholds)
        if self.temperature is not None:
            temperature = float(self.temperature)
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"`temperature` must be positive. Received: {temperature}")
            object.__setattr__(self, "temperature", temperature)

    def checked(self, num_outputs):
        """The task itself, if it fits a model with so many outputs.

        Raises:
            ValueError: For another number of thresholds.
        """
        for field in ("thresholds", "mean", "scale"):
            numbers = getattr(self, field)
            if numbers is not None and len(numbers) != num_outputs:
                raise ValueError(
                    f"`{field}` must be one for each of the {num_outputs} outputs. Received: "
                    f"{len(numbers)}"
                )
        return self

    def thresholds_of(self, num_outputs):
        """A threshold for each of the labels."""
        return self.thresholds or (THRESHOLD,) * num_outputs

    def values_of(self, outputs):
        """The values that a model's outputs (..., K) stand for, an array."""
        scaled = outputs if self.scale is None else outputs * list(self.scale)
        return scaled if self.mean is None else scaled + list(self.mean)

    def describe(self):
        """The fields that are set, as plain values; a model's configuration holds these."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


_KINDS = {
    "thresholds": MULTILABEL,
    "temperature": CLASSIFICATION,
    "mean": REGRESSION,
    "scale": REGRESSION,
}


def task_of(model):
    """The `Task` of a model, of this package or any other."""
    return getattr(model, "task", None) or Task()
