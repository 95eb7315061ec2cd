"""The layers that Keras lacks, on `keras.ops` alone."""

from keras_vit.layers.attention import MultiHeadAttention
from keras_vit.layers.embedding import (
    ClassToken,
    LearnedPositionEmbedding,
    PatchEmbedding,
    SinCosPositionEmbedding,
)
from keras_vit.layers.encoder import EncoderBlock, MlpBlock
from keras_vit.layers.pooling import AttentionPooling, TokenPooling
from keras_vit.layers.regularization import Dropout
from keras_vit.layers.resnet import BottleneckUnit, PreActivationUnit, StandardizedConv2D

__all__ = [
    "AttentionPooling",
    "BottleneckUnit",
    "ClassToken",
    "Dropout",
    "EncoderBlock",
    "LearnedPositionEmbedding",
    "MlpBlock",
    "MultiHeadAttention",
    "PatchEmbedding",
    "PreActivationUnit",
    "SinCosPositionEmbedding",
    "StandardizedConv2D",
    "TokenPooling",
]
