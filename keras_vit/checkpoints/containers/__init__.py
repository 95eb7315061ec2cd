"""Readers and writers of containers of arrays: the walls against hostile files."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
