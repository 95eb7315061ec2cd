"""The Vision Transformer (arXiv:2010.11929v2, section 3.1), read top to bottom in `_build_outputs`.

Shapes: B batch, H W pixels, C channels, h w grid, N = h w patches, T tokens (N, or N + 1 with the
class token), D hidden, k heads.
"""

import keras

from keras_vit.layers import (
    AttentionPooling,
    AxialEncoderBlock,
    ClassToken,
    Dropout,
    EncoderBlock,
    Identity,
    MaskToken,
    PatchEmbedding,
    RegisterTokens,
    TokenPooling,
    WholePatches,
)
from keras_vit.layers.initializers import lecun_normal
from keras_vit.models.classifier import ImageClassifier, classification_head
from keras_vit.models.features import block_indices, transformer_features
from keras_vit.models.positions import position_layers
from keras_vit.models.vit_config import RELATIVE, VisionTransformerConfig


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
    _feature_extractor = staticmethod(transformer_features)

    @staticmethod
    def _build_outputs(config, images, policy):
        positions = position_layers(config, policy)
        tokens = embed(config, images, positions, policy)  # (B, T, D)
        tokens = encode(config, tokens, positions, policy)  # (B, T, D)
        return head(config, tokens, policy)  # (B, num_classes)

    def attention_weights(self, images, blocks=None):
        """What the heads attend to, computed with the model's own weights.

        Args:
            images: (B, H, W, C), as for a call.
            blocks: indices of the encoder blocks (negative ones count from the last); None for all.

        Returns:
            A list with one (B, k, T, T) float32 array for each block; rows sum to 1.

        Raises:
            ValueError: for a block that does not exist, or a model with axial attention.
        """
        if self.config.axial_attention:
            raise ValueError(
                "attention weights are those of all tokens for each other. Received: a model with "
                "axial attention, which has none; `get_layer('encoderblock_0').row` and `.column` "
                "have `attention_probabilities` along one axis"
            )
        depth = self.config.depth
        indices = block_indices(range(depth) if blocks is None else blocks, depth)
        layers = [self.get_layer(f"encoderblock_{index}") for index in indices]
        inputs_of = keras.Model(self.input, {layer.name: layer.input for layer in layers})
        tokens = inputs_of(images, training=False)
        return [
            keras.ops.convert_to_numpy(layer.attention_probabilities(tokens[layer.name]))
            for layer in layers
        ]


def embed(config, features, positions, policy):
    """Patches, class token and positions (Eq. 1): (B, H, W, C) -> (B, T, D).

    Args:
        config: `VisionTransformerConfig`.
        features: What is cut into patches: the images, or a hybrid's feature map.
        positions: What `position_layers` returns.
        policy: dtype policy of the layers.
    """
    if config.dynamic_image_size:
        features = WholePatches(config.patch_size, dtype=policy, name="whole_patches")(features)
    patches = PatchEmbedding(
        config.hidden_size, config.patch_size, config.patch_bias, dtype=policy, name="embedding"
    )(features)  # (B, h, w, D)
    tokens = keras.layers.Reshape((-1, config.hidden_size), dtype=policy, name="tokens")
    x = tokens(patches)  # (B, N, D)
    if config.mask_token:
        x = MaskToken(dtype=policy, name="mask")(x)
    if config.distillation_token:
        x = ClassToken(dtype=policy, name="dist")(x)
    if config.class_token:
        x = ClassToken(dtype=policy, name="cls")(x)  # (B, N + 1, D)
    if config.num_registers:
        before = config.class_token + config.distillation_token
        registers = RegisterTokens(config.num_registers, before, dtype=policy, name="registers")
        if config.register_positions:
            x = registers(x)
    if positions[0] is not None:
        x = positions[0](x, patches) if config.dynamic_image_size else positions[0](x)
    if config.num_registers and not config.register_positions:
        x = registers(x)  # (B, T, D)
    x = Dropout(config.dropout, dtype=policy, name="posembed_dropout")(x)
    return _layer_norm(config, policy, "pre_norm")(x) if config.pre_norm else x


def encode(config, tokens, positions, policy):
    """The encoder blocks and the last norm (Eq. 2 to 4): (B, T, D) -> (B, T, D).

    Args:
        config: `VisionTransformerConfig`.
        tokens: What `embed` returns.
        positions: What `position_layers` returns.
        policy: dtype policy of the layers.
    """
    x = tokens
    for i in range(config.depth):
        if i and positions[i] is not None:
            x = positions[i](x)
        block = {
            "num_heads": config.num_heads,
            "mlp_dim": config.mlp_dim,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "stochastic_depth": config.stochastic_depth * i / max(config.depth - 1, 1),
            "gelu": config.gelu,
            "layer_norm_epsilon": config.layer_norm_epsilon,
            "layer_scale": config.layer_scale,
            "qkv_bias": config.qkv_bias,
            "qk_norm": config.qk_norm,
            "gated_mlp": config.gated_mlp,
            "relative_positions": RELATIVE.get(config.position_embedding),
        }
        name = f"encoderblock_{i}"
        if config.axial_attention:
            x = AxialEncoderBlock(config.grid, block, dtype=policy, name=name)(x)
        else:
            x = EncoderBlock(**block, dtype=policy, name=name)(x)  # (B, T, D)
    if config.final_norm != "tokens":
        return Identity(dtype=policy, name="encoder_norm")(x)
    return _layer_norm(config, policy, "encoder_norm")(x)


def _layer_norm(config, policy, name):
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_epsilon, dtype=policy, name=name
    )


def head(config, tokens, policy):
    """Pooling, representation layer and classes: (B, T, D) -> (B, num_classes).

    Args:
        config: `VisionTransformerConfig`.
        tokens: What `encode` returns.
        policy: dtype policy of the layers.
    """
    x = tokens
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
        pooling = "token" if config.pooling == "distillation" else config.pooling
        x = TokenPooling(pooling, config.num_leading_tokens, dtype=policy, name="pooling")(x)
    if config.final_norm == "pooled":
        x = _layer_norm(config, policy, "pooled_norm")(x)  # (B, D)
    if config.representation_size is None:
        x = Identity(dtype=policy, name="pre_logits")(x)
    else:
        x = keras.layers.Dense(
            config.representation_size,
            kernel_initializer=lecun_normal(),
            dtype=policy,
            name="pre_logits",
        )(x)  # (B, R)
        x = keras.layers.Activation("tanh", dtype=policy, name="pre_logits_tanh")(x)
    outputs = classification_head(config, x, policy)
    if config.pooling != "distillation":
        return outputs
    second = TokenPooling("distillation_token", dtype=policy, name="distillation_pooling")(tokens)
    second = classification_head(config, second, policy, name="head_dist")
    return keras.layers.Average(dtype=outputs.dtype, name="head_mean")([outputs, second])
