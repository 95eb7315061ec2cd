"""The formats of checkpoints, one table of rows a file."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
