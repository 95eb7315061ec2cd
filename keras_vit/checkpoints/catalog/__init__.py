"""Which checkpoints are published, where they are, and what a name stands for."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
