"""Everything between models and files: load, save, convert, assign."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
