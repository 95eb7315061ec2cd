"""Tokens that are replaced or left out, for models that learn without labels.

Shapes: B batch, L leading tokens (a class token), S and N patches, D hidden.
"""

import keras
from keras import ops

from keras_vit.layers import initializers


def gather_tokens(tokens, indices):
    """The tokens at given places of each example, bit for bit.

    Args:
        tokens: (B, T, D).
        indices: Integers (B, M) in [0, T).

    Returns:
        (B, M, D).
    """
    num_tokens, features = ops.shape(tokens)[1], tokens.shape[-1]
    starts = ops.arange(ops.shape(tokens)[0], dtype="int32")[:, None] * num_tokens
    flat = ops.reshape(tokens, (-1, features))
    return ops.take(flat, starts + ops.cast(indices, "int32"), axis=0)


@keras.saving.register_keras_serializable(package="keras_vit")
class GatherTokens(keras.layers.Layer):
    """The patches at given places: (B, L + S, D) -> (B, L + M, D), or (B, M, D).

    Args:
        num_leading: L.
        keeps_leading: Whether the leading tokens stay before the chosen patches.

    Call arguments:
        inputs: List of tokens (B, L + S, D) and places int32 (B, M) in [0, S).
    """

    def __init__(self, num_leading, keeps_leading=True, **kwargs):
        super().__init__(**kwargs)
        self.num_leading = num_leading
        self.keeps_leading = keeps_leading

    def build(self, input_shape):
        pass

    def call(self, inputs):
        tokens, indices = inputs
        leading, patches = tokens[:, : self.num_leading], tokens[:, self.num_leading :]
        chosen = gather_tokens(patches, indices)
        return ops.concatenate([leading, chosen], axis=1) if self.keeps_leading else chosen

    def compute_output_shape(self, input_shape):
        (batch, _, features), (_, number) = input_shape
        return (batch, number + self.num_leading * self.keeps_leading, features)

    def get_config(self):
        own = {"num_leading": self.num_leading, "keeps_leading": self.keeps_leading}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_vit")
class GatherOrMask(keras.layers.Layer):
    """Takes each patch from a given place, or from a learned [mask] token.

    Place s < S is that of the patch s, and place S that of the mask, N(0, 0.02) at first:
    (B, L + S, D) -> (B, L + N, D).  What is no mask is taken bit for bit.

    Args:
        num_leading: L, the tokens that stay before the patches.

    Call arguments:
        inputs: List of tokens (B, L + S, D) and places int32 (B, N) in [0, S].
    """

    def __init__(self, num_leading=0, **kwargs):
        super().__init__(**kwargs)
        self.num_leading = num_leading

    def build(self, input_shape):
        features = input_shape[0][-1]
        self.token = self.add_weight(
            name="token", shape=(features,), initializer=initializers.normal(0.02)
        )

    def call(self, inputs):
        tokens, sources = inputs
        leading, patches = tokens[:, : self.num_leading], tokens[:, self.num_leading :]
        shape = (ops.shape(tokens)[0], 1, tokens.shape[-1])
        mask = ops.broadcast_to(ops.cast(self.token, tokens.dtype), shape)
        patches = gather_tokens(ops.concatenate([patches, mask], axis=1), sources)
        return ops.concatenate([leading, patches], axis=1) if self.num_leading else patches

    def compute_output_shape(self, input_shape):
        (batch, _, features), (_, number) = input_shape
        return (batch, number + self.num_leading, features)

    def get_config(self):
        return {**super().get_config(), "num_leading": self.num_leading}
