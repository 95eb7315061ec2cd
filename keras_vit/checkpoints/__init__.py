"""Checkpoint formats as tables, one engine that reads and writes them, and where the files are."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
