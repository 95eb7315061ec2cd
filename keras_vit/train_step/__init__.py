"""The training step that `Model.fit` runs for the models of this package."""

from keras_vit.lazy import submodules_of
from keras_vit.train_step.model import TrainableModel

__all__ = ["TrainableModel"]

__getattr__ = submodules_of(__name__)
