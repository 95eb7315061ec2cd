"""The Transformer encoder's block (Eq. 2 and 3 of arXiv:2010.11929v2).

Shapes: B batch, T tokens, D hidden.
"""

import contextlib
import math

import keras
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.attention import MultiHeadAttention
from keras_vit.layers.lora import Dense, adapters_of
from keras_vit.layers.recompute import LayerNormalization, elementwise
from keras_vit.layers.regularization import drop_branch, dropout, seed_generator
from keras_vit.layers.trainable import CompositeLayer


def gelu_tanh(x):
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the official code's GELU.

    The cube is a product: `tf.pow` costs several times as much on CPUs.
    """
    scale = math.sqrt(2.0 / math.pi)
    return 0.5 * x * (1.0 + ops.tanh(scale * (x + 0.044715 * (x * x * x))))


def gelu_exact(x):
    """x/2 (1 + erf(x / sqrt(2))): the GELU of timm and Hugging Face.

    Written with `erf`, because TensorFlow's own kernel uses `erfc`, which ONNX does not have.
    """
    return 0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


def gelu_quick(x):
    """x sigmoid(1.702 x): the form of GELU that OpenAI's CLIP was trained with."""
    return x * ops.sigmoid(1.702 * x)


def gelu_tanh_derivative(x):
    """The derivative of `gelu_tanh`.

    Written with the logistic function, because (1 + tanh(u)) / 2 = sigmoid(2 u): with
    w = 2 sqrt(2/pi) (x + 0.044715 x^3) and s = sigmoid(w) it is s (1 + x w' (1 - s)).
    """
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    square = x * x
    s = ops.sigmoid(x * (scale + (scale * 0.044715) * square))
    slope = scale + (3.0 * scale * 0.044715) * square
    return s * (1.0 + x * slope * (1.0 - s))


def gelu_exact_derivative(x):
    """The derivative of `gelu_exact`: Phi(x) + x phi(x) of the normal distribution."""
    cumulative = 0.5 + 0.5 * ops.erf(x * (1.0 / math.sqrt(2.0)))
    return cumulative + x * ops.exp(-0.5 * (x * x)) * (1.0 / math.sqrt(2.0 * math.pi))


def gelu_quick_derivative(x):
    """The derivative of `gelu_quick`: with s = sigmoid(1.702 x) it is s (1 + 1.702 x (1 - s))."""
    s = ops.sigmoid(1.702 * x)
    return s * (1.0 + 1.702 * x * (1.0 - s))


GELUS = {"tanh": gelu_tanh, "exact": gelu_exact, "quick": gelu_quick}
DERIVATIVES = {
    "tanh": gelu_tanh_derivative,
    "exact": gelu_exact_derivative,
    "quick": gelu_quick_derivative,
}


@keras.saving.register_keras_serializable(package="keras_vit")
class MlpBlock(CompositeLayer):
    """Dense, GELU, dropout, dense, dropout: (B, T, D) -> (B, T, D).

    Args:
        mlp_dim: width of the hidden layer.
        dropout: rate after the GELU and after the second dense layer, in [0, 1).
        gelu: `"tanh"` (official files), `"exact"` (timm, Hugging Face) or `"quick"` (CLIP).
        gated: Whether the first layer is twice as wide and its halves a, b become silu(a) b in the
            place of the GELU (SwiGLU, arXiv:2002.05202).
    """

    def __init__(self, mlp_dim, dropout=0.0, gelu="tanh", gated=False, **kwargs):
        super().__init__(**kwargs)
        if gelu not in GELUS:
            raise ValueError(f"`gelu` must be one of {sorted(GELUS)}. Received: {gelu!r}")
        self.mlp_dim = mlp_dim
        self.dropout = dropout
        self.gelu = gelu
        self.gated = gated
        self.seeds = seed_generator(dropout)

    def build(self, input_shape):
        features = input_shape[-1]
        hidden = 2 * self.mlp_dim if self.gated else self.mlp_dim
        widths = {"dense_1": (features, hidden), "dense_2": (self.mlp_dim, features)}
        for name, (fan_in, fan_out) in widths.items():
            layer = Dense(
                fan_out,
                kernel_initializer=initializers.xavier_uniform(fan_in, fan_out),
                bias_initializer=initializers.normal(1e-6),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((*input_shape[:-1], fan_in))
            setattr(self, name, layer)
        self.restore_parts()

    def call(self, tokens, training=None):
        hidden = self.dense_1(tokens, training=training)  # (B, T, mlp_dim), or twice that
        if self.gated:
            hidden = ops.silu(hidden[..., : self.mlp_dim]) * hidden[..., self.mlp_dim :]
        else:
            hidden = elementwise(GELUS[self.gelu], DERIVATIVES[self.gelu], hidden, training)
        hidden = dropout(hidden, self.dropout, self.seeds, training)
        outputs = self.dense_2(hidden, training=training)  # (B, T, D)
        return dropout(outputs, self.dropout, self.seeds, training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "dropout": self.dropout,
            "gelu": self.gelu,
            "gated": self.gated,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerScale(keras.layers.Layer):
    """Multiplies each feature by a learned scale (arXiv:2103.17239): (B, T, D) -> (B, T, D).

    Args:
        initial_value: Of every scale, 1e-5 in timm's models.
    """

    def __init__(self, initial_value, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, tokens):
        return tokens * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_value": self.initial_value}


@keras.saving.register_keras_serializable(package="keras_vit")
class EncoderBlock(CompositeLayer):
    """Pre-norm Transformer block: x + MSA(LN(x)), then x + MLP(LN(x)).

    Args:
        num_heads: k; must divide D.
        mlp_dim: width of the MLP's hidden layer.
        dropout: rate after the attention and inside the MLP, in [0, 1).
        attention_dropout: rate on the attention probabilities, in [0, 1).
        stochastic_depth: probability that each of the two branches is dropped, in [0, 1).
        gelu: `"tanh"` or `"exact"`.
        layer_norm_epsilon: added to the variance; 1e-6 in the official code.
        layer_scale: Initial value of the scales of both branches; None for no scales.
        qkv_bias: As in `MultiHeadAttention`.
        qk_norm: As in `MultiHeadAttention`.
        gated_mlp: As `gated` in `MlpBlock`.
        relative_positions: As in `MultiHeadAttention`.

    Attributes:
        remat: whether training computes the block's intermediate values again for the gradient, to
            save memory.  Set it before the model is trained.

    Call arguments:
        tokens: (B, T, D).
        training: whether dropout and stochastic depth act.
    """

    remat = False

    def __init__(
        self,
        num_heads,
        mlp_dim,
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth=0.0,
        gelu="tanh",
        layer_norm_epsilon=1e-6,
        layer_scale=None,
        qkv_bias=True,
        qk_norm=False,
        gated_mlp=False,
        relative_positions=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.stochastic_depth = stochastic_depth
        self.gelu = gelu
        self.layer_norm_epsilon = layer_norm_epsilon
        self.layer_scale = layer_scale
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.gated_mlp = gated_mlp
        self.relative_positions = relative_positions
        self.seeds = seed_generator(dropout, stochastic_depth)

    def build(self, input_shape):
        policy = self.dtype_policy
        for name in ("norm_1", "norm_2"):
            norm = LayerNormalization(epsilon=self.layer_norm_epsilon, dtype=policy, name=name)
            norm.build(input_shape)
            setattr(self, name, norm)
        self.attention = MultiHeadAttention(
            self.num_heads,
            self.attention_dropout,
            self.qkv_bias,
            self.qk_norm,
            self.layer_norm_epsilon,
            self.relative_positions,
            dtype=policy,
            name="attention",
        )
        self.attention.build(input_shape)
        self.mlp = MlpBlock(
            self.mlp_dim, self.dropout, self.gelu, self.gated_mlp, dtype=policy, name="mlp"
        )
        self.mlp.build(input_shape)
        self.layer_scale_1 = self.layer_scale_2 = None
        if self.layer_scale is not None:
            self.layer_scale_1 = LayerScale(self.layer_scale, dtype=policy, name="layer_scale_1")
            self.layer_scale_1.build(input_shape)
            self.layer_scale_2 = LayerScale(self.layer_scale, dtype=policy, name="layer_scale_2")
            self.layer_scale_2.build(input_shape)
        self.restore_parts()

    def attention_probabilities(self, tokens):
        """(B, k, T, T) float32: what this block's heads attend to, given the block's input."""
        return self.attention.attention_probabilities(self.norm_1(tokens, training=False))

    def call(self, tokens, training=None):
        return self.with_attention(self.attention, tokens, training)

    def with_attention(self, attention, tokens, training=None, draws=1):
        """The block with another function of its normed tokens in the place of its attention.

        Args:
            attention: Function of (B, T, D) and `training` that gives (B, T, D).
            tokens: (B, T, D).
            training: As in a call.
            draws: How often the function draws the attention's dropout.
        """
        if training and self.remat:
            return self._recomputed(attention, tokens, draws)
        return self._block(attention, tokens, training)

    def _recomputed(self, attention, tokens, attention_draws):
        """The block whose intermediate values are computed again for its gradient."""
        # How many seeds each generator gives; they are drawn once, outside of what runs twice.
        draws = (
            (self.seeds, (self.dropout > 0) + 2 * (self.stochastic_depth > 0)),
            (self.attention.seeds, attention_draws * (self.attention_dropout > 0)),
            (self.mlp.seeds, 2 * (self.dropout > 0)),
            *((lora.seeds, int(lora.dropout > 0)) for _, lora in adapters_of(self)),
        )
        draws = [(generator, number) for generator, number in draws if number]
        seeds = [[generator.next() for _ in range(number)] for generator, number in draws]

        def block(tokens):
            with contextlib.ExitStack() as stack:
                for (generator, _), given in zip(draws, seeds, strict=True):
                    stack.enter_context(generator.giving(given))
                return self._block(attention, tokens, training=True)

        return keras.remat(block)(tokens)

    def _block(self, attention, tokens, training):
        branch = attention(self.norm_1(tokens, training=training), training=training)
        branch = dropout(branch, self.dropout, self.seeds, training)
        branch = branch if self.layer_scale is None else self.layer_scale_1(branch)
        tokens = tokens + drop_branch(branch, self.stochastic_depth, self.seeds, training)
        branch = self.mlp(self.norm_2(tokens, training=training), training=training)
        branch = branch if self.layer_scale is None else self.layer_scale_2(branch)
        return tokens + drop_branch(branch, self.stochastic_depth, self.seeds, training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "stochastic_depth": self.stochastic_depth,
            "gelu": self.gelu,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "layer_scale": self.layer_scale,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "gated_mlp": self.gated_mlp,
            "relative_positions": self.relative_positions,
        }
