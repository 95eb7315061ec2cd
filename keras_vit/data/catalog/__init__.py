"""The known data sets as a table, and where the examples of each are."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
