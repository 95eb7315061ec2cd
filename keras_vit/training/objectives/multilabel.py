"""Several labels an image: a sigmoid for each of them."""

import dataclasses

from keras_vit.data.tasks import MULTILABEL
from keras_vit.evaluators import classification, multilabel, outputs
from keras_vit.models.task import Task
from keras_vit.training.losses import SigmoidCrossentropy


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Learns which labels an image has, any number of them.

    The thresholds from which labels are given are those of the highest F1 on the validation split,
    chosen at the end; without one they are 0.5.

    Args:
        label_smoothing: In [0, 1); see `keras_vit.training.losses`.
    """

    label_smoothing: float = 0.0
    task = MULTILABEL
    keeps_targets = True  # so that nothing is mapped over the batches

    def build(self, model, info):
        model.task = Task(kind=MULTILABEL)
        return model

    def targets(self, image, label, seed):
        return image, label

    def loss(self):
        return SigmoidCrossentropy(label_smoothing=self.label_smoothing)

    def metrics(self):
        return []

    def finish(self, model):
        return model

    def evaluators(self, info, split, batch_size):
        return [multilabel.MultiLabel(split, dataset=info, batch_size=batch_size)]

    def conclude(self, model, info, split, batch_size):
        if split is None:
            return
        batches = classification.evaluation_batches(model, info, split, batch_size)
        thresholds = multilabel.best_thresholds(*outputs.collect(model, batches))
        model.task = Task(kind=MULTILABEL, thresholds=thresholds)


def from_recipe(recipe):
    """The objective with the recipe's label smoothing."""
    return MultiLabel(recipe.label_smoothing)
