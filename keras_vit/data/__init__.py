"""Data sets, decoding, preprocessing and tf.data pipelines; import the submodules by name."""

from keras_vit.lazy import submodules_of

__getattr__ = submodules_of(__name__)
