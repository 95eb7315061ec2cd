"""Values of an image: squared and absolute error, and the share of the variance that is explained.

Shapes: n images, K values.
"""

import dataclasses

import numpy as np

from keras_vit.data.tasks import REGRESSION
from keras_vit.evaluators import outputs
from keras_vit.models.task import task_of


@dataclasses.dataclass
class Regression(outputs.SplitEvaluator):
    """Evaluator of a model of values: what `measure` returns for a split.

    Args:
        split, dataset, batch_size, name, between: As in
            `keras_vit.evaluators.outputs.SplitEvaluator`.
    """

    task = REGRESSION

    @staticmethod
    def measure(predicted, values, model):
        """`measure` in the units of the data."""
        return measure(task_of(model).values_of(predicted), values)


def evaluate(model, dataset, split="test", batch_size=64, **options):
    """As `keras_vit.evaluate`: what `measure` returns, and `count`, the number of images."""
    found = outputs.answers(model, dataset, split, batch_size, task=REGRESSION, **options)
    return {**Regression.measure(*found[1:], model), "count": len(found[1])}


def measure(predicted, values):
    """How near the predicted values are.

    Args:
        predicted: Floats (n, K).
        values: (n, K).

    Returns:
        A dict of `mse` and `mae` (means over images and values, in the units of the data), and
        `r2`, the mean over the values of 1 - squared error / variance; as in scikit-learn, for a
        value that does not vary 1 where it is met and else 0.

    >>> measure(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    {'mse': 0.5, 'mae': 0.5, 'r2': -1.0}
    """
    values = np.asarray(values, np.float64)
    errors = predicted - values
    squares = np.sum(errors**2, 0)  # (K,)
    total = np.sum((values - values.mean(0)) ** 2, 0)
    explained = 1.0 - np.divide(squares, total, out=(squares > 0).astype(float), where=total > 0)
    return {
        "mse": float(np.mean(errors**2)),
        "mae": float(np.mean(np.abs(errors))),
        "r2": float(np.mean(explained)),
    }
