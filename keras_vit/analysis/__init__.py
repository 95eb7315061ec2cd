"""What a model has learned, as arrays: section 4.5 and appendices D.7 and D.8 of the paper.

Weights:    embedding_filters, position_similarity, weight_statistics
Attention:  attention_distance, attention_rollout, attention_map, thresholded_attention,
            joint_attention
Features:   block_features, representation_similarity, linear_cka
Gradients:  grad_cam
All of it:  analyze, in one pass over the images

Functions take a model of the package and images as the model takes them, and give NumPy arrays.
Pictures of these are in `keras_vit.analysis.plots`, a page of them in `keras_vit.analysis.report`.
"""

from keras_vit.analysis.analyze import ImageAnalysis, analyze
from keras_vit.analysis.attention import (
    attention_distance,
    attention_map,
    attention_rollout,
    joint_attention,
    thresholded_attention,
)
from keras_vit.analysis.filters import FilterComponents, embedding_filters
from keras_vit.analysis.gradcam import grad_cam
from keras_vit.analysis.positions import position_similarity
from keras_vit.analysis.similarity import (
    Similarity,
    block_features,
    linear_cka,
    representation_similarity,
)
from keras_vit.analysis.statistics import weight_statistics
from keras_vit.lazy import submodules_of

__all__ = [
    "FilterComponents",
    "ImageAnalysis",
    "Similarity",
    "analyze",
    "attention_distance",
    "attention_map",
    "attention_rollout",
    "block_features",
    "embedding_filters",
    "grad_cam",
    "joint_attention",
    "linear_cka",
    "position_similarity",
    "representation_similarity",
    "thresholded_attention",
    "weight_statistics",
]

__getattr__ = submodules_of(__name__)
