"""From tokens to one vector an image.

Shapes: B batch, T tokens, D hidden.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.attention import MultiHeadAttention
from keras_vit.layers.encoder import MlpBlock
from keras_vit.layers.trainable import CompositeLayer

POOLINGS = ("token", "distillation_token", "mean", "patch_mean", "token_patch_mean")


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenPooling(keras.layers.Layer):
    """From all tokens to one vector: (B, T, D) -> (B, D), or (B, 2 D) for `"token_patch_mean"`.

    Args:
        pooling: `"token"` takes the first token, `"distillation_token"` the second, `"mean"` the
            mean of all, `"patch_mean"` that of the patches, `"token_patch_mean"` the first token
            and that mean, one after the other.
        num_leading_tokens: How many tokens come before the patches.
    """

    def __init__(self, pooling, num_leading_tokens=0, **kwargs):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: {pooling!r}")
        self.pooling = pooling
        self.num_leading_tokens = num_leading_tokens

    def build(self, input_shape):
        pass

    def call(self, tokens):
        if self.pooling == "mean":
            return ops.mean(tokens, axis=1)
        if self.pooling in ("token", "distillation_token"):
            return tokens[:, int(self.pooling == "distillation_token")]
        patches = ops.mean(tokens[:, self.num_leading_tokens :], axis=1)
        if self.pooling == "patch_mean":
            return patches
        return ops.concatenate([tokens[:, 0], patches], axis=-1)

    def compute_output_shape(self, input_shape):
        factor = 2 if self.pooling == "token_patch_mean" else 1
        return (input_shape[0], factor * input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "num_leading_tokens": self.num_leading_tokens,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenGrid(keras.layers.Layer):
    """The last h w tokens as a map: (B, T, D) -> (B, h, w, D); what stands before is left out.

    Args:
        grid: (h, w) in patches; None where it is free.

    Call arguments:
        tokens: (B, T, D).
        patches: (B, h, w, D), whose shape tells a free grid.
    """

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = None if grid is None else tuple(grid)

    def call(self, tokens, patches=None):
        height, width = self.grid or ops.shape(patches)[1:3]
        tokens = tokens[:, ops.shape(tokens)[1] - height * width :]
        return ops.reshape(tokens, (-1, height, width, tokens.shape[-1]))

    def compute_output_shape(self, tokens_shape, patches_shape=None):
        return (tokens_shape[0], *(self.grid or patches_shape[1:3]), tokens_shape[-1])

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


@keras.saving.register_keras_serializable(package="keras_vit")
class AttentionPooling(CompositeLayer):
    """A learned probe attends to all tokens, then an MLP with a residual (big_vision's MAP head).

    y = MSA(probe, tokens); y + MLP(LN(y)); (B, T, D) -> (B, D).

    Args:
        num_heads: k; must divide D.
        mlp_dim: width of the MLP's hidden layer.
        gelu: `"tanh"` or `"exact"`.
        layer_norm_epsilon: added to the variance.
    """

    def __init__(self, num_heads, mlp_dim, gelu="tanh", layer_norm_epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.gelu = gelu
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, input_shape):
        features = input_shape[-1]
        pooled_shape = (input_shape[0], 1, features)
        # Flax reads the fans of (1, 1, D) off its last two axes.
        self.probe = self.add_weight(
            name="probe",
            shape=(1, 1, features),
            initializer=initializers.xavier_uniform(1, features),
        )
        self.attention = MultiHeadAttention(
            self.num_heads, dtype=self.dtype_policy, name="attention"
        )
        self.attention.build(input_shape)
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(pooled_shape)
        self.mlp = MlpBlock(self.mlp_dim, gelu=self.gelu, dtype=self.dtype_policy, name="mlp")
        self.mlp.build(pooled_shape)
        self.restore_parts()

    def call(self, tokens):
        shape = (ops.shape(tokens)[0], 1, tokens.shape[-1])
        probe = ops.broadcast_to(ops.cast(self.probe, tokens.dtype), shape)
        pooled = self.attention(tokens, query=probe)  # (B, 1, D)
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "gelu": self.gelu,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
