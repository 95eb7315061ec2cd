"""The Vision Transformer (arXiv:2010.11929v2, section 3.1), read top to bottom in `_build_outputs`.

Shapes: B batch, H W pixels, C channels, h w grid, N = h w patches, T tokens (N, or N + 1 with the
class token), D hidden, k heads.
"""

import dataclasses

import keras

from keras_vit.layers import (
    AttentionPooling,
    ClassToken,
    Dropout,
    EncoderBlock,
    LearnedPositionEmbedding,
    PatchEmbedding,
    SinCosPositionEmbedding,
    TokenPooling,
)
from keras_vit.layers.encoder import GELUS
from keras_vit.layers.initializers import lecun_normal
from keras_vit.models.classifier import (
    ImageClassifier,
    check_num_classes,
    check_one_of,
    check_positive,
    check_rates,
    classification_head,
    pair,
)

POOLINGS = ("token", "mean", "attention", "none")
POSITION_EMBEDDINGS = ("learned", "sincos2d", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig:
    """A Vision Transformer's architecture.

    Args:
        patch_size: (P, Q) in pixels, or one integer.
        hidden_size: D.
        mlp_dim: width of the MLPs' hidden layer.
        num_heads: k; must divide D.
        depth: number of encoder blocks L.
        image_size: (H, W) in pixels, or one integer; the patches must fill it.
        in_channels: C.
        num_classes: width of the head; 0 for none.
        class_token: whether a learned token is put before the patches.
        pooling: `"token"` takes the first token, `"mean"` the mean of all, `"attention"` a learned
            probe (big_vision's MAP), `"none"` keeps the whole sequence (the official `unpooled`).
        position_embedding: `"learned"` (one vector a token), `"sincos2d"` or `"none"`.
        representation_size: width of the dense layer with tanh before the head; None for none.
        dropout: after the positions, after the attention, and inside the MLP, in [0, 1).
        attention_dropout: on the attention probabilities, in [0, 1).
        stochastic_depth: rate of the last block, in [0, 1); the first has 0, linear between.
        gelu: `"tanh"` (official) or `"exact"` (timm, Hugging Face).
        layer_norm_epsilon: 1e-6 in the official code.
        head_bias: initial value of the head's bias; -10 for sigmoid pre-training on ImageNet-21k.

    Raises:
        ValueError: where a value is out of range or sizes do not fit each other.
    """

    patch_size: tuple[int, int]
    hidden_size: int
    mlp_dim: int
    num_heads: int
    depth: int
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    class_token: bool = True
    pooling: str = "token"
    position_embedding: str = "learned"
    representation_size: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    gelu: str = "tanh"
    layer_norm_epsilon: float = 1e-6
    head_bias: float = 0.0

    def __post_init__(self):
        for name in ("patch_size", "image_size"):
            object.__setattr__(self, name, pair(getattr(self, name), name))
        check_positive(self, "hidden_size", "mlp_dim", "num_heads", "depth", "in_channels")
        check_num_classes(self)
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        check_one_of(
            self, pooling=POOLINGS, position_embedding=POSITION_EMBEDDINGS, gelu=sorted(GELUS)
        )
        if self.representation_size is not None:
            check_positive(self, "representation_size")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_size`. "
                f"Received: num_heads={self.num_heads}, hidden_size={self.hidden_size}"
            )
        height, width = self.feature_size
        if height < 1 or height % self.patch_size[0] or width < 1 or width % self.patch_size[1]:
            raise ValueError(
                f"the patches must fill the image: `patch_size` {self.patch_size} does not divide "
                f"{self.feature_size}. Received: image_size={self.image_size}"
            )

    @property
    def feature_size(self):
        """(height, width) of what is cut into patches: the image."""
        return self.image_size

    @property
    def grid(self):
        """(h, w): how many patches there are in each direction."""
        height, width = self.feature_size
        return height // self.patch_size[0], width // self.patch_size[1]


@keras.saving.register_keras_serializable(package="keras_vit")
class VisionTransformer(ImageClassifier):
    """Vision Transformer as a functional `keras.Model`.

    Layers whose outputs are worth having by name: `embedding` (B, h, w, D), `posembed_input`
    (B, T, D), `encoderblock_0` ... (B, T, D), `encoder_norm` (B, T, D), `pooling` (B, D),
    `pre_logits` (B, D), or (B, R) before its tanh, and `head` (B, num_classes).

    Args:
        config: `VisionTransformerConfig`.
        preprocessing: `Preprocessing`; by default a squash to the image size and values in [-1, 1].
        class_names: one name for each class, or None.
        origin: where the weights come from (set by `from_pretrained`).
        name: of the model.
        dtype: dtype or policy of all layers, `"mixed_bfloat16"` among them; None takes the global.

    Call arguments:
        images: (B, H, W, C) floats in `preprocessing.value_range`.

    Returns:
        (B, num_classes) float32 logits, or the `pre_logits` features where there is no head.
    """

    config_class = VisionTransformerConfig

    @staticmethod
    def _build_outputs(config, images, policy):
        return encode(config, images, policy)

    def attention_weights(self, images, blocks=None):
        """What the heads attend to, computed with the model's own weights.

        Args:
            images: (B, H, W, C), as for a call.
            blocks: indices of the encoder blocks (negative ones count from the last); None for all.

        Returns:
            A list with one (B, k, T, T) float32 array for each block; rows sum to 1.

        Raises:
            ValueError: for a block that does not exist.
        """
        depth = self.config.depth
        indices = list(range(depth)) if blocks is None else list(blocks)
        for index in indices:
            if not -depth <= index < depth:
                raise ValueError(
                    f"`blocks` must be between {-depth} and {depth - 1}. Received: {index}"
                )
        layers = [self.get_layer(f"encoderblock_{index % depth}") for index in indices]
        inputs_of = keras.Model(self.input, {layer.name: layer.input for layer in layers})
        tokens = inputs_of(images, training=False)
        return [
            keras.ops.convert_to_numpy(layer.attention_probabilities(tokens[layer.name]))
            for layer in layers
        ]


def encode(config, features, policy):
    """Patches, positions, encoder, pooling, head: what follows the image or the hybrid's stem."""
    x = PatchEmbedding(config.hidden_size, config.patch_size, dtype=policy, name="embedding")(
        features
    )  # (B, h, w, D)
    x = keras.layers.Reshape((-1, config.hidden_size), dtype=policy, name="tokens")(x)  # (B, N, D)
    if config.class_token:
        x = ClassToken(dtype=policy, name="cls")(x)  # (B, N + 1, D)
    if config.position_embedding == "learned":
        x = LearnedPositionEmbedding(dtype=policy, name="posembed_input")(x)
    elif config.position_embedding == "sincos2d":
        x = SinCosPositionEmbedding(config.grid, dtype=policy, name="posembed_input")(x)
    x = Dropout(config.dropout, dtype=policy, name="dropout")(x)

    for i in range(config.depth):
        x = EncoderBlock(
            config.num_heads,
            config.mlp_dim,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            stochastic_depth=config.stochastic_depth * i / max(config.depth - 1, 1),
            gelu=config.gelu,
            layer_norm_epsilon=config.layer_norm_epsilon,
            dtype=policy,
            name=f"encoderblock_{i}",
        )(x)  # (B, T, D)
    x = keras.layers.LayerNormalization(
        epsilon=config.layer_norm_epsilon, dtype=policy, name="encoder_norm"
    )(x)

    if config.pooling == "attention":
        x = AttentionPooling(
            config.num_heads,
            config.mlp_dim,
            config.gelu,
            config.layer_norm_epsilon,
            dtype=policy,
            name="pooling",
        )(x)  # (B, D)
    elif config.pooling != "none":
        x = TokenPooling(config.pooling, dtype=policy, name="pooling")(x)  # (B, D)
    if config.representation_size is None:
        x = keras.layers.Identity(dtype=policy, name="pre_logits")(x)
    else:
        x = keras.layers.Dense(
            config.representation_size,
            kernel_initializer=lecun_normal(),
            dtype=policy,
            name="pre_logits",
        )(x)  # (B, R)
        x = keras.layers.Activation("tanh", dtype=policy, name="pre_logits_tanh")(x)
    return classification_head(config, x, policy)
