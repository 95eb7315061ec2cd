"""The layers that Keras lacks, on `keras.ops` alone."""

from keras_vit.layers.attention import MultiHeadAttention
from keras_vit.layers.axial import AxialEncoderBlock
from keras_vit.layers.axial_resnet import AxialAttention, AxialBottleneckUnit
from keras_vit.layers.core import Identity, ImageInput, InfinitePadding2D
from keras_vit.layers.dynamic import (
    DynamicPositionEmbedding,
    DynamicSinCosEmbedding,
    WholePatches,
)
from keras_vit.layers.embedding import ClassToken, MaskToken, PatchEmbedding, RegisterTokens
from keras_vit.layers.encoder import EncoderBlock, MlpBlock
from keras_vit.layers.pooling import AttentionPooling, TokenGrid, TokenPooling
from keras_vit.layers.positions import (
    LearnedPositionEmbedding,
    LearnedPositionEmbedding2D,
    SinCosPositionEmbedding,
)
from keras_vit.layers.regularization import Dropout
from keras_vit.layers.resnet import BottleneckUnit, PreActivationUnit, StandardizedConv2D
from keras_vit.lazy import submodules_of

__all__ = [
    "AttentionPooling",
    "AxialAttention",
    "AxialBottleneckUnit",
    "AxialEncoderBlock",
    "BottleneckUnit",
    "ClassToken",
    "Dropout",
    "DynamicPositionEmbedding",
    "DynamicSinCosEmbedding",
    "EncoderBlock",
    "Identity",
    "ImageInput",
    "InfinitePadding2D",
    "LearnedPositionEmbedding",
    "LearnedPositionEmbedding2D",
    "MaskToken",
    "MlpBlock",
    "MultiHeadAttention",
    "PatchEmbedding",
    "RegisterTokens",
    "PreActivationUnit",
    "SinCosPositionEmbedding",
    "StandardizedConv2D",
    "TokenGrid",
    "TokenPooling",
    "WholePatches",
]

__getattr__ = submodules_of(__name__)
