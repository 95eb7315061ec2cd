"""Training: recipes as data, and runs whose loop is `model.fit`."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
