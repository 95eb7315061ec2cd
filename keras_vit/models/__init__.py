"""The families as functional Keras models, and the tables of their named members."""

import importlib

from keras_vit.lazy import submodules_of

# What is imported when it is first asked for: configurations and tables need no Keras.
_PUBLIC = {
    "AxialResNet": "keras_vit.models.axial_resnet",
    "AxialResNetConfig": "keras_vit.models.resnet_configs",
    "BiTResNet": "keras_vit.models.bit",
    "BiTResNetConfig": "keras_vit.models.resnet_configs",
    "HybridVisionTransformer": "keras_vit.models.hybrid",
    "HybridVisionTransformerConfig": "keras_vit.models.resnet_configs",
    "PixelModel": "keras_vit.models.pixel_model",
    "Preprocessing": "keras_vit.models.preprocessing",
    "VisionTransformer": "keras_vit.models.vit",
    "VisionTransformerConfig": "keras_vit.models.vit_config",
    "include_preprocessing": "keras_vit.models.pixel_model",
}

__all__ = list(_PUBLIC)

_submodule = submodules_of(__name__)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    return _submodule(name)
