"""What a training learns: the protocol, and one module for each objective."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
