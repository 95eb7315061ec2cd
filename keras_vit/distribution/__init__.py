"""Strategies, processes and signals: how many devices train, and how they agree."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
