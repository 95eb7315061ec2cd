"""Values of an image, one or several.

Shapes: B batch, K values.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_vit.data.tasks import REGRESSION
from keras_vit.evaluators.regression import Regression as Evaluator
from keras_vit.models.task import Task

LOSSES = {
    "mse": keras.losses.mean_squared_error,
    "mae": keras.losses.mean_absolute_error,
    "huber": keras.losses.huber,
}


@dataclasses.dataclass
class Regression:
    """Learns the values of images.

    While it is trained the model predicts values that are shifted and scaled to mean 0 and
    deviation 1 over the training split, so that one learning rate fits all units; at the end the
    head takes both over, and the model predicts the values themselves.

    Args:
        name: `"mse"`, `"mae"` or `"huber"` (quadratic up to one deviation).
    """

    name: str = "mse"
    task = REGRESSION
    keeps_targets = True
    # What `prepare` finds out; no fields, which are what the objective is.
    _mean = _scale = None

    def prepare(self, info, split):
        """Takes mean and deviation from the training split."""
        values = np.asarray(info.source.labels(split), np.float64)  # (n, K)
        scale = values.std(0)
        self._mean = tuple(values.mean(0).tolist())
        self._scale = tuple(np.where(scale > 0, scale, 1.0).tolist())

    def build(self, model, info):
        model.task = Task(kind=REGRESSION, mean=self._mean, scale=self._scale)
        return model

    def targets(self, image, label, seed):
        return image, label

    def loss(self):
        return ScaledLoss(self.name, mean=self._mean, scale=self._scale)

    def metrics(self):
        return []

    def finish(self, model):
        return model

    def evaluators(self, info, split, batch_size):
        return [Evaluator(split, dataset=info, batch_size=batch_size)]

    def conclude(self, model, info, split, batch_size):
        """Folds mean and scale into the head: (x W + b) s + m = x (W s) + (b s + m)."""
        mean, scale = (np.asarray(part, np.float64) for part in (self._mean, self._scale))
        head = model.get_layer("head")
        kernel, bias = (ops.convert_to_numpy(v).astype(np.float64) for v in head.weights)
        head.kernel.assign((kernel * scale).astype(np.float32))
        head.bias.assign((bias * scale + mean).astype(np.float32))
        model.task = Task(kind=REGRESSION)


@keras.saving.register_keras_serializable(package="keras_vit")
class ScaledLoss(keras.losses.Loss):
    """Error of outputs to (values - mean) / scale, its mean over the values.

    Args:
        name: A key of `LOSSES`.
        mean: K numbers.
        scale: K positive numbers.
        reduction: Of Keras.
        dtype: Of the computation.

    Call arguments:
        y_true: (B, K) values.
        y_pred: (B, K) outputs.

    Returns:
        The mean over the batch.
    """

    def __init__(self, name, *, mean, scale, reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.mean, self.scale = tuple(mean), tuple(scale)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}

    def call(self, y_true, y_pred):
        mean, scale = (
            ops.convert_to_tensor(part, y_pred.dtype) for part in (self.mean, self.scale)
        )
        targets = (ops.cast(y_true, y_pred.dtype) - mean) / scale
        return LOSSES[self.name](targets, y_pred)  # (B,)


def from_recipe(recipe):
    """The objective with the recipe's loss, if that is a name."""
    return Regression(recipe.loss if isinstance(recipe.loss, str) else "mse")
