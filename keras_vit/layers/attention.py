"""Multi-head attention with the official weights' layout (Appendix A of arXiv:2010.11929v2).

Shapes: B batch, T tokens, S tokens that are attended to, D hidden, k heads, d = D / k.
"""

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.regularization import dropout, seed_generator


def attention_probabilities(query, key):
    """softmax(q k^T / sqrt(d)) over the last axis, in float32 (Eq. 6 of arXiv:2010.11929v2).

    Args:
        query: (B, k, T, d), any float dtype.
        key: (B, k, S, d).

    Returns:
        (B, k, T, S) float32; each row sums to 1.
    """
    scale = query.shape[-1] ** -0.5
    scores = ops.matmul(query * ops.cast(scale, query.dtype), ops.swapaxes(key, -1, -2))
    return ops.softmax(ops.cast(scores, "float32"), axis=-1)


@keras.saving.register_keras_serializable(package="keras_vit")
class MultiHeadAttention(keras.layers.Layer):
    """Self-attention, or attention of a query over the inputs.

    The kernels have the shapes of the official files, (D, k, d) and (k, d, D).

    Args:
        num_heads: k; must divide D.
        attention_dropout: share of attention probabilities dropped in training, in [0, 1).

    Call arguments:
        inputs: (B, S, D).
        query: (B, T, D), or None for self-attention.
        training: whether dropout acts.

    Returns:
        (B, T, D) in the compute dtype.

    Raises:
        ValueError: when built on a D that `num_heads` does not divide.
    """

    def __init__(self, num_heads, attention_dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.seeds = seed_generator(attention_dropout)

    def build(self, inputs_shape, query_shape=None):
        features = inputs_shape[-1]
        heads = self.num_heads
        if features % heads:
            raise ValueError(
                f"`num_heads` must divide the number of features. Received: num_heads={heads}, "
                f"features={features}"
            )
        self.head_size = size = features // heads
        kernels = initializers.xavier_uniform(features, features)
        for name in ("query", "key", "value"):
            for part, shape, initializer in (
                ("kernel", (features, heads, size), kernels),
                ("bias", (heads, size), "zeros"),
            ):
                weight = self.add_weight(
                    name=f"{name}_{part}", shape=shape, initializer=initializer
                )
                setattr(self, f"{name}_{part}", weight)
        self.out_kernel = self.add_weight(
            name="out_kernel", shape=(heads, size, features), initializer=kernels
        )
        self.out_bias = self.add_weight(name="out_bias", shape=(features,), initializer="zeros")

    def _project(self, inputs, kernel, bias):
        """(B, T, D) -> (B, k, T, d).

        As one flat product: an einsum over three axes costs more, and so does projecting query, key
        and value together, whose gradient has to be put together again.
        """
        tokens, features = ops.shape(inputs)[1], inputs.shape[-1]
        flat = ops.reshape(inputs, (-1, features))  # (B T, D)
        flat = ops.matmul(flat, ops.reshape(kernel, (features, features)))
        flat = flat + ops.reshape(bias, (features,))
        heads = ops.reshape(flat, (-1, tokens, self.num_heads, self.head_size))
        return ops.transpose(heads, (0, 2, 1, 3))

    def _query_and_key(self, inputs, query):
        query = self._project(
            inputs if query is None else query, self.query_kernel, self.query_bias
        )
        return query, self._project(inputs, self.key_kernel, self.key_bias)

    def attention_probabilities(self, inputs, query=None):
        """(B, k, T, S) float32: how much each query token takes of each input token."""
        return attention_probabilities(*self._query_and_key(inputs, query))

    def call(self, inputs, query=None, training=None):
        query, key = self._query_and_key(inputs, query)
        value = self._project(inputs, self.value_kernel, self.value_bias)
        probabilities = ops.cast(attention_probabilities(query, key), value.dtype)
        probabilities = dropout(probabilities, self.attention_dropout, self.seeds, training)
        mixed = ops.matmul(probabilities, value)  # (B, k, T, d)
        tokens, features = ops.shape(mixed)[2], self.num_heads * self.head_size
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, features))  # (B T, D)
        mixed = ops.matmul(mixed, ops.reshape(self.out_kernel, (features, features)))
        return ops.reshape(mixed + self.out_bias, (-1, tokens, features))  # (B, T, D)

    def compute_output_shape(self, inputs_shape, query_shape=None):
        return inputs_shape if query_shape is None else query_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "attention_dropout": self.attention_dropout,
        }
