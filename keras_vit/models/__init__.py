"""The three families as functional Keras models, and the tables of their named members."""

from keras_vit.models.bit import BiTResNet, BiTResNetConfig
from keras_vit.models.hybrid import HybridVisionTransformer, HybridVisionTransformerConfig
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.vit import VisionTransformer, VisionTransformerConfig

__all__ = [
    "BiTResNet",
    "BiTResNetConfig",
    "HybridVisionTransformer",
    "HybridVisionTransformerConfig",
    "Preprocessing",
    "VisionTransformer",
    "VisionTransformerConfig",
]
