"""Decoders of dense tasks: from a map of features to logits of each pixel.

Shapes: B batch, h w grid, N = h w patches, D hidden, E width of the decoder, K classes, H W pixels.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.encoder import EncoderBlock
from keras_vit.layers.trainable import CompositeLayer

# PyTorch's LayerNorm, which the official code leaves as it is.
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_vit")
class MaskTransformer(CompositeLayer):
    """Segmenter's decoder (arXiv:2105.05633, section 3.2): a learned token for each class.

    Patches and class tokens go through encoder blocks; a patch's logits are the scalar products of
    its and the classes' tokens, projected and of length 1, and normalised over the classes.

    Args:
        num_classes: K.
        depth: Number of blocks; 2 in the paper.
        num_heads: Of each block; must divide `hidden_size`.
        mlp_dim: Width of the MLPs' hidden layer; None takes four times `hidden_size`.
        hidden_size: E; None takes D.
        dropout: Rate in the blocks, in [0, 1); 0.1 in the official code.
        stochastic_depth: Probability that the last block's branches are dropped; 0.0 in the
            official code.

    Call arguments:
        features: (B, h, w, D).

    Returns:
        (B, h, w, K) logits.
    """

    def __init__(
        self,
        num_classes,
        depth=2,
        num_heads=1,
        mlp_dim=None,
        hidden_size=None,
        dropout=0.0,
        stochastic_depth=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth

    def build(self, input_shape):
        features, policy = input_shape[-1], self.dtype_policy
        width = self.hidden_size or features
        tokens = (None, None, width)
        truncated = initializers.truncated_normal(0.02)
        self.projection = keras.layers.Dense(
            width, kernel_initializer=truncated, dtype=policy, name="projection"
        )
        self.projection.build((None, None, features))
        self.class_embeddings = self.add_weight(
            name="class_embeddings",
            shape=(self.num_classes, width),
            initializer=initializers.truncated_normal(0.02),
        )
        for i in range(self.depth):
            block = EncoderBlock(
                self.num_heads,
                self.mlp_dim or 4 * width,
                dropout=self.dropout,
                stochastic_depth=self.stochastic_depth * i / max(self.depth - 1, 1),
                gelu="exact",
                layer_norm_epsilon=_EPSILON,
                dtype=policy,
                name=f"block_{i}",
            )
            block.build(tokens)
            setattr(self, block.name, block)
        self.norm = keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=policy, name="norm")
        self.norm.build(tokens)
        for name in ("patch_projection", "class_projection"):
            weight = self.add_weight(
                name=name, shape=(width, width), initializer=initializers.normal(width**-0.5)
            )
            setattr(self, name, weight)
        # In the variables' dtype: the logits of 150 classes are close to each other.
        self.mask_norm = keras.layers.LayerNormalization(
            epsilon=_EPSILON, dtype=policy.variable_dtype, name="mask_norm"
        )
        self.mask_norm.build((None, None, self.num_classes))
        self.restore_parts()

    def call(self, features, training=None):
        height, width, size = features.shape[1:]
        x = self.projection(ops.reshape(features, (-1, height * width, size)))  # (B, N, E)
        classes = ops.cast(self.class_embeddings, x.dtype)
        classes = ops.broadcast_to(classes, (ops.shape(x)[0], *classes.shape))
        x = ops.concatenate([x, classes], axis=1)  # (B, N + K, E)
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x, training=training)
        x = self.norm(x)
        patches = _unit(x[:, : height * width] @ ops.cast(self.patch_projection, x.dtype))
        classes = _unit(x[:, height * width :] @ ops.cast(self.class_projection, x.dtype))
        logits = self.mask_norm(patches @ ops.transpose(classes, (0, 2, 1)))  # (B, N, K)
        return ops.reshape(logits, (-1, height, width, self.num_classes))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_classes)

    def get_config(self):
        names = ("num_classes", "depth", "num_heads", "mlp_dim", "hidden_size", "dropout")
        own = {name: getattr(self, name) for name in (*names, "stochastic_depth")}
        return {**super().get_config(), **own}


def _unit(vectors):
    """Vectors of length 1, along the last axis."""
    return vectors / ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True))


@keras.saving.register_keras_serializable(package="keras_vit")
class UpsampledLogits(keras.layers.Layer):
    """Logits of each pixel: bilinear with half-pixel centres, and without what was padded.

    Args:
        padded_size: (height, width) in pixels of what the grid was cut from.
        size: (height, width) that is kept of it; None keeps all.

    Call arguments:
        logits: (B, h, w, K).

    Returns:
        (B, H, W, K).
    """

    def __init__(self, padded_size, size=None, **kwargs):
        super().__init__(**kwargs)
        self.padded_size = tuple(padded_size)
        self.size = self.padded_size if size is None else tuple(size)

    def call(self, logits):
        x = ops.image.resize(
            logits, self.padded_size, "bilinear", antialias=False, data_format="channels_last"
        )
        return x[:, : self.size[0], : self.size[1]]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self):
        sizes = {"padded_size": self.padded_size, "size": self.size}
        return {**super().get_config(), **sizes}
