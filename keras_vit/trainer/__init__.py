"""The training step that `Model.fit` runs for the models of this package."""

from keras_vit.trainer.model import TrainableModel

__all__ = ["TrainableModel"]
