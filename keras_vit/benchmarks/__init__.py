"""How fast a model is on this machine."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
