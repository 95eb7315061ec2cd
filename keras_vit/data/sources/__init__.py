"""Where examples come from: the protocol `Source`, and one module for each kind."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
