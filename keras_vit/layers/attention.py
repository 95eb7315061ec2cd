"""Multi-head attention with the official weights' layout (Appendix A of arXiv:2010.11929v2).

Shapes: B batch, T tokens, S tokens that are attended to, D hidden, k heads, d = D / k.
"""

import contextlib
import contextvars

import keras
from keras import ops

from keras_vit.layers import initializers, recompute
from keras_vit.layers.lora import Adaptable
from keras_vit.layers.positions import RELATIVE_POSITIONS, relative_logits
from keras_vit.layers.quantization import check_int8, rounded, scopes_of, source_policy
from keras_vit.layers.regularization import dropout, seed_generator
from keras_vit.layers.trainable import CompositeLayer


def attention_probabilities(query, key, relative=None):
    """softmax(q k^T / sqrt(d)) over the last axis, in float32 (Eq. 6 of arXiv:2010.11929v2).

    Args:
        query: (B, k, T, d), any float dtype.
        key: (B, k, S, d).
        relative: the table of `relative_logits`, which are added to the scores; or None.

    Returns:
        (B, k, T, S) float32; each row sums to 1.
    """
    query = query * ops.cast(query.shape[-1] ** -0.5, query.dtype)
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
    scores = scores if relative is None else scores + relative_logits(query, relative)
    return ops.softmax(ops.cast(scores, "float32"), axis=-1)


# From so many tokens on, attention is computed in blocks of so many queries.  Measured in
# docs/performance.md: there inference is faster in blocks and training saves a lot of memory for
# little time; with fewer tokens the whole product is as fast or faster and its memory is small.
BLOCKWISE_TOKENS = 1024
BLOCK_SIZE = 256

_is_whole = contextvars.ContextVar("is_whole", default=False)


@contextlib.contextmanager
def whole_products():
    """In the `with` block attention computes all probabilities at once, at every length.

    For formats that have no loop over blocks: LiteRT refuses the one that TensorFlow traces.
    """
    token = _is_whole.set(True)
    try:
        yield
    finally:
        _is_whole.reset(token)


def attend(query, key, value, rate=0.0, seeds=None, training=None, relative=None):
    """softmax(q k^T / sqrt(d)) v, computed in the way that suits the backend and the size.

    | when | how |
    |---|---|
    | JAX on GPUs, float16 or bfloat16 | Keras's `dot_product_attention`: cuDNN's fused kernel |
    | from `BLOCKWISE_TOKENS` tokens on | `blockwise_attention` (PyTorch: its fused kernels) |
    | otherwise, where dropout acts, with relative positions | all probabilities at once |

    Dropout keeps the last way at every length, because its mask is one draw over all probabilities.

    Args:
        query: (B, k, T, d).
        key: (B, k, S, d).
        value: (B, k, S, d).
        rate: share of the probabilities that is dropped in training, in [0, 1).
        seeds: `SeedGenerator` of the dropout.
        training: whether dropout acts.
        relative: as in `attention_probabilities`.

    Returns:
        (B, k, T, d) in the dtype of `value`.
    """
    if relative is None and not (training and rate):
        way = _way(query.dtype, query.shape[2], key.shape[2])
        if way == "fused":
            return _fused_attention(query, key, value)
        if way == "blockwise":
            return blockwise_attention(query, key, value)
    probabilities = ops.cast(attention_probabilities(query, key, relative), value.dtype)
    return ops.matmul(dropout(probabilities, rate, seeds, training), value)


def _way(dtype, num_queries, num_keys):
    if _is_whole.get():
        return "plain"
    backend = keras.backend.backend()
    half = keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")
    if half and backend == "jax" and keras.distribution.list_devices()[0].startswith("gpu"):
        return "fused"
    # None in a graph of TensorFlow whose grid is free, an expression in such an export from JAX.
    is_known = isinstance(num_queries, int) and isinstance(num_keys, int)
    if not is_known or min(num_queries, num_keys) < BLOCKWISE_TOKENS:
        return "plain"
    return "blockwise" if recompute.is_supported() else "fused"


def _fused_attention(query, key, value):
    heads_last = [ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value)]  # (B, T, k, d)
    return ops.transpose(ops.dot_product_attention(*heads_last), (0, 2, 1, 3))


def blockwise_attention(query, key, value, block_size=BLOCK_SIZE):
    """softmax(q k^T / sqrt(d)) v whose memory grows with the tokens and not with their square.

    Each block of queries sees all keys, so its softmax is exact.  The gradient computes the blocks'
    probabilities again; it is a first derivative only.

    Args:
        query: (B, k, T, d); T must be known.
        key: (B, k, S, d).
        value: (B, k, S, d).
        block_size: most queries in a block.

    Returns:
        (B, k, T, d) in the dtype of `value`.
    """
    num_queries, scale = query.shape[2], query.shape[-1] ** -0.5
    num_blocks = -(-num_queries // block_size)
    # Blocks of even size: what is filled up with zeros is less than one query a block.
    size = -(-num_queries // num_blocks)

    def in_blocks(x):
        """(B, k, T, d) -> (blocks, B, k, size, d)."""
        x = ops.pad(x, ((0, 0), (0, 0), (0, num_blocks * size - num_queries), (0, 0)))
        x = ops.reshape(x, (-1, x.shape[1], num_blocks, size, x.shape[-1]))
        return ops.transpose(x, (2, 0, 1, 3, 4))

    def joined(blocks):
        """(blocks, B, k, size, d) -> (B, k, T, d)."""
        x = ops.transpose(blocks, (1, 2, 0, 3, 4))
        x = ops.reshape(x, (-1, x.shape[1], num_blocks * size, x.shape[-1]))
        return x[:, :, :num_queries]

    @recompute.with_gradient
    def attention(query, key, value):
        def forward(carry, slices):
            probabilities = ops.cast(attention_probabilities(slices[0], key), value.dtype)
            return carry, ops.matmul(probabilities, value)

        queries = in_blocks(query)
        _, outputs = recompute.scan(forward, (), (queries,), num_blocks)

        def gradient(upstream):
            def backward(carry, slices):
                dkey, dvalue = carry
                q, output, doutput = slices
                p = attention_probabilities(q, key)  # (B, k, size, S)
                transposed = ops.swapaxes(ops.cast(p, value.dtype), -1, -2)
                dvalue = dvalue + ops.cast(ops.matmul(transposed, doutput), "float32")
                dp = ops.cast(ops.matmul(doutput, ops.swapaxes(value, -1, -2)), "float32")
                # The softmax's gradient: p (dp - sum(p dp)), and sum(p dp) = sum(o do).
                products = ops.cast(output, "float32") * ops.cast(doutput, "float32")
                dscores = p * (dp - ops.sum(products, axis=-1, keepdims=True))
                dscores = ops.cast(dscores * scale, key.dtype)
                dkey = dkey + ops.cast(ops.matmul(ops.swapaxes(dscores, -1, -2), q), "float32")
                return (dkey, dvalue), ops.matmul(dscores, key)

            zeros = tuple(ops.zeros_like(x, dtype="float32") for x in (key, value))
            blocks = (queries, outputs, in_blocks(upstream))
            (dkey, dvalue), dquery = recompute.scan(backward, zeros, blocks, num_blocks)
            return joined(dquery), ops.cast(dkey, key.dtype), ops.cast(dvalue, value.dtype)

        return joined(outputs), gradient

    return attention(query, key, value)


@keras.saving.register_keras_serializable(package="keras_vit")
class MultiHeadAttention(Adaptable, CompositeLayer):
    """Self-attention, or attention of a query over the inputs.

    The kernels have the shapes of the official files, (D, k, d) and (k, d, D).

    Args:
        num_heads: k; must divide D.
        attention_dropout: share of attention probabilities dropped in training, in [0, 1).
        qkv_bias: Whether query, key and value have biases.
        qk_norm: Whether each head's query and key go through a layer norm (arXiv:2302.05442).
        layer_norm_epsilon: Of those norms.
        relative_positions: None, or how the heads share the table of relative positions (D.4):
            `"shared"` or `"per_head"`; for self-attention of as many tokens as it is built on.

    Call arguments:
        inputs: (B, S, D).
        query: (B, T, D), or None for self-attention.
        training: whether dropout acts.

    Returns:
        (B, T, D) in the compute dtype.

    Raises:
        ValueError: when built on a D that `num_heads` does not divide, or for an unknown
            `relative_positions`.
    """

    adaptable = ("query_kernel", "key_kernel", "value_kernel", "out_kernel")

    @property
    def adaptable_shape(self):
        return (self.num_heads * self.head_size,) * 2

    def __init__(
        self,
        num_heads,
        attention_dropout=0.0,
        qkv_bias=True,
        qk_norm=False,
        layer_norm_epsilon=1e-6,
        relative_positions=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if relative_positions not in (None, *RELATIVE_POSITIONS):
            raise ValueError(
                f"`relative_positions` must be one of {RELATIVE_POSITIONS}, or None. "
                f"Received: {relative_positions!r}"
            )
        self.num_heads = num_heads
        self.relative_positions = relative_positions
        self.attention_dropout = attention_dropout
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.layer_norm_epsilon = layer_norm_epsilon
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
                if part == "bias" and not self.qkv_bias:
                    self.query_bias = self.key_bias = self.value_bias = None
                    continue
                weight = self.add_weight(
                    name=f"{name}_{part}", shape=shape, initializer=initializer
                )
                setattr(self, f"{name}_{part}", weight)
        self.out_kernel = self.add_weight(
            name="out_kernel", shape=(heads, size, features), initializer=kernels
        )
        self.out_bias = self.add_weight(name="out_bias", shape=(features,), initializer="zeros")
        for name in ("query_norm", "key_norm") if self.qk_norm else ():
            norm = keras.layers.LayerNormalization(
                epsilon=self.layer_norm_epsilon, dtype=source_policy(self), name=name
            )
            norm.build((None, heads, None, size))
            setattr(self, name, norm)
        self.relative_embedding = None
        if self.relative_positions is not None:
            heads_first = () if self.relative_positions == "shared" else (heads,)
            self.relative_embedding = self.add_weight(
                name="relative_embedding",
                shape=(*heads_first, 2 * inputs_shape[1] - 1, size),
                initializer=initializers.normal(0.02),
            )
        if self.quantization_mode is not None:
            self._keep_in_8_bits()
        self.restore_parts()

    def quantize(self, mode=None, type_check=True, config=None):
        """Keeps the four kernels in 8 bits, with a scale for each output channel.

        As Keras does with a Dense layer: `keras_vit.layers.quantization`.
        """
        check_int8(mode, config)
        self._keep_in_8_bits()
        policy = f"{mode}_from_{self.dtype_policy.name}"
        self.dtype_policy = keras.dtype_policies.get(policy)

    def _keep_in_8_bits(self):
        for name in self.adaptable:
            kernel = getattr(self, name)
            values, scale = rounded(ops.reshape(kernel, self.adaptable_shape))
            self._untrack_variable(kernel)
            with scopes_of(kernel):
                stored = self.add_weight(
                    name=name, shape=kernel.shape, dtype="int8", trainable=False
                )
                scales = self.add_weight(name=f"{name}_scale", shape=scale.shape, trainable=False)
            stored.assign(ops.reshape(values, kernel.shape))
            scales.assign(scale)
            setattr(self, name, stored)
            setattr(self, f"{name}_scale", scales)
        self._is_quantized = True  # what Keras goes by

    def _int8_call(self, inputs, query=None, training=None):
        return self.call(inputs, query, training)

    def _project(self, inputs, name, training):
        """(B, T, D) -> (B, k, T, d), by the kernel and the bias of that name.

        As one flat product: an einsum over three axes costs more, and so does projecting query, key
        and value together, whose gradient has to be put together again.
        """
        bias = getattr(self, f"{name}_bias")
        tokens, features = ops.shape(inputs)[1], inputs.shape[-1]
        rows = ops.reshape(inputs, (-1, features))  # (B T, D)
        flat = self.product(rows, f"{name}_kernel")
        flat = flat if bias is None else flat + ops.reshape(bias, (features,))
        flat = self.adapted(flat, f"{name}_kernel", rows, training)
        heads = ops.reshape(flat, (-1, tokens, self.num_heads, self.head_size))
        return ops.transpose(heads, (0, 2, 1, 3))

    def _query_and_key(self, inputs, query, training=None):
        query = self._project(inputs if query is None else query, "query", training)
        key = self._project(inputs, "key", training)
        return (self.query_norm(query), self.key_norm(key)) if self.qk_norm else (query, key)

    def attention_probabilities(self, inputs, query=None):
        """(B, k, T, S) float32: how much each query token takes of each input token."""
        query, key = self._query_and_key(inputs, query)
        return attention_probabilities(query, key, self.relative_embedding)

    def projected(self, inputs, query=None, training=None):
        """Query, key and value, each (B, k, T or S, d), of (B, S, D) and a query (B, T, D)."""
        query, key = self._query_and_key(inputs, query, training)
        return query, key, self._project(inputs, "value", training)

    def joined(self, mixed, training=None):
        """The last projection: what the heads mixed, (B, k, T, d), -> (B, T, D)."""
        tokens, features = ops.shape(mixed)[2], self.num_heads * self.head_size
        rows = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, features))  # (B T, D)
        mixed = self.product(rows, "out_kernel")
        mixed = self.adapted(mixed + self.out_bias, "out_kernel", rows, training)
        return ops.reshape(mixed, (-1, tokens, features))  # (B, T, D)

    def call(self, inputs, query=None, training=None):
        query, key, value = self.projected(inputs, query, training)
        mixed = attend(
            *(query, key, value, self.attention_dropout, self.seeds, training),
            relative=self.relative_embedding,
        )
        return self.joined(mixed, training)

    def compute_output_shape(self, inputs_shape, query_shape=None):
        return inputs_shape if query_shape is None else query_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "attention_dropout": self.attention_dropout,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "relative_positions": self.relative_positions,
        }
