"""From tokens to one vector an image.

Shapes: B batch, T tokens, D hidden.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.attention import MultiHeadAttention
from keras_vit.layers.encoder import MlpBlock

POOLINGS = ("token", "mean")


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenPooling(keras.layers.Layer):
    """(B, T, D) -> (B, D): the first token (`"token"`) or the mean of all (`"mean"`)."""

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: {pooling!r}")
        self.pooling = pooling

    def build(self, input_shape):
        pass

    def call(self, tokens):
        return tokens[:, 0] if self.pooling == "token" else ops.mean(tokens, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}


@keras.saving.register_keras_serializable(package="keras_vit")
class AttentionPooling(keras.layers.Layer):
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
