"""Classification by labels, as in the paper."""

import dataclasses

import keras

from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.evaluators.classification import Classification
from keras_vit.training.losses import LOSSES


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Learns the labels of a data set: cross-entropy, with accuracy.

    Args:
        name: `"softmax"` or `"sigmoid"`, of the cross-entropy.
        label_smoothing: In [0, 1); see `keras_vit.training.losses`.
    """

    name: str = "softmax"
    label_smoothing: float = 0.0
    task = CLASSIFICATION
    keeps_targets = True  # so that nothing is mapped over the batches

    def build(self, model, info):
        model.task = None  # of a model that was calibrated, or for another task
        return model

    def targets(self, image, label, seed):
        return image, label

    def loss(self):
        return LOSSES[self.name](label_smoothing=self.label_smoothing)

    def metrics(self):
        return [Accuracy()]

    def finish(self, model):
        return model

    def evaluators(self, info, split, batch_size):
        return [Classification(split, dataset=info, batch_size=batch_size)]


@keras.saving.register_keras_serializable(package="keras_vit")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """Share of the examples whose highest logit is that of their class.

    Labels are integers (B,), or shares of the classes (B, K), whose largest counts.  With one logit
    it is positive for the class 1.

    Args:
        name: Name of the metric.
        dtype: Of the computation.
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_is_right, name=name, dtype=dtype)
        self._direction = "up"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _is_right(y_true, y_pred):
    if y_pred.shape[-1] == 1:
        is_one = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "float32") > 0.5
        return keras.ops.equal(is_one, keras.ops.reshape(y_pred, (-1,)) > 0.0)
    if len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1]:
        return keras.metrics.categorical_accuracy(y_true, y_pred)
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


def from_recipe(recipe):
    """The objective with the recipe's loss, if that is a name."""
    loss = recipe.loss if isinstance(recipe.loss, str) else "softmax"
    return Supervised(loss, recipe.label_smoothing)
