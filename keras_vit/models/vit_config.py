"""The architecture of a Vision Transformer; nothing here needs Keras.

Shapes: H W pixels, h w grid, N = h w patches, T tokens, D hidden, k heads, C channels.
"""

import dataclasses

from keras_vit import resize_rules
from keras_vit.models.fields import (
    check_num_classes,
    check_number,
    check_one_of,
    check_positive,
    check_rates,
    field,
    pair,
)

POOLINGS = (
    *("token", "mean", "attention", "none"),
    *("patch_mean", "token_patch_mean", "distillation"),
)
FINAL_NORMS = ("tokens", "pooled", "none")
# The names of `layers.encoder.GELUS`.
GELUS = ("exact", "quick", "tanh")
# Relative positions -> how the heads share their table.
RELATIVE = {"relative": "shared", "relative_per_head": "per_head"}
# Sine-cosine positions -> their frequencies; computed, so that no file holds them.
SINCOS = {"sincos2d": "moco", "sincos2d_mae": "mae"}
POSITION_EMBEDDINGS = ("learned", "learned2d", *SINCOS, *RELATIVE, "none")
POSITION_LOCATIONS = ("stem", "every_layer", "every_layer_shared")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig:
    """A Vision Transformer's architecture.

    Args:
        patch_size: (P, Q) in pixels, or one integer.
        hidden_size: D.
        mlp_dim: width of the MLPs' hidden layer.
        num_heads: k; must divide D.
        depth: number of encoder blocks L.
        image_size: (H, W) in pixels, or one integer; the patches must fill it, but for
            `partial_patches`.
        in_channels: C.
        num_classes: width of the head; 0 for none.
        class_token: whether a learned token is put before the patches.
        pooling: `"token"` takes the first token, `"mean"` the mean of all, `"attention"` a learned
            probe (big_vision's MAP), `"none"` keeps the whole sequence (the official `unpooled`),
            `"patch_mean"` the mean of the patches without the tokens before them (timm's `avg`),
            `"token_patch_mean"` both, side by side (DINOv2's linear head), `"distillation"` the
            mean of a head on the class token and one on the distillation token (DeiT).
        position_embedding: `"learned"` (1-D: one vector a token), `"learned2d"` (one of the column
            and one of the row, half as wide), `"sincos2d"` and `"sincos2d_mae"` (computed),
            `"relative"` (1-D, of the distance of two tokens, in each layer's attention;
            `"relative_per_head"` has a table for each head) or `"none"` (D.4).
        position_location: Where they are added: at the `"stem"`, or at the input of
            `"every_layer"`, with a table for each or, `"every_layer_shared"`, the same one.
        representation_size: width of the dense layer with tanh before the head; None for none.
        dropout: after the positions, after the attention, and inside the MLP, in [0, 1).
        attention_dropout: on the attention probabilities, in [0, 1).
        stochastic_depth: rate of the last block, in [0, 1); the first has 0, linear between.
        gelu: `"tanh"` (official), `"exact"` (timm, Hugging Face) or `"quick"` (OpenAI's CLIP).
        layer_norm_epsilon: 1e-6 in the official code.
        layer_scale: Initial value of a learned scale for each feature of each block's two branches
            (LayerScale, arXiv:2103.17239); None for none, as in the paper.
        num_registers: Number of learned tokens after the class token (arXiv:2309.16588).
        register_positions: Whether the registers have positions of their own.
        distillation_token: Whether a second token follows the class token (DeiT, arXiv:2012.12877).
        mask_token: Whether the token of a masked pre-training is kept; nothing uses it.
        pre_norm: Whether a layer norm comes before the first block (CLIP).
        final_norm: Where the last layer norm is: on the `"tokens"`, after the pooling
            (`"pooled"`), or nowhere (`"none"`).
        patch_bias: Whether the patch embedding has a bias.
        qkv_bias: Whether query, key and value have biases.
        qk_norm: Whether each head's query and key go through a layer norm.
        gated_mlp: Whether the MLPs are SwiGLU (DINOv2's giant); `mlp_dim` is the width after the
            gate.
        axial_attention: Whether each block is two, whose tokens attend along the height and then
            along the width (Axial-ViT, D.6); it needs `class_token=False`.
        dynamic_image_size: Whether the model takes images of any height and width that patches
            fill.  Learned positions are those of `image_size`, interpolated inside the model.
        partial_patches: Whether rows and columns at the end that fill no patch are left out, as
            published models of 384 px in patches of 14 leave them out; else they are an error.
        position_resize: The rule by which learned positions are interpolated, a name of
            `keras_vit.resize_rules.RULES`; None is that of the file's own library, and `"aligned"`,
            the official one, in a new model.
        use_head_bias: Whether the head has a bias; CLIP's projection has none.
        head_bias: initial value of the head's bias; -10 for sigmoid pre-training on ImageNet-21k.

    Raises:
        ValueError: where a value is out of range or sizes do not fit each other.
    """

    patch_size: tuple[int, int] = field(tells_presets=True, in_recipe=True)
    hidden_size: int = field(tells_presets=True, in_recipe=True)
    mlp_dim: int = field(tells_presets=True, in_recipe=True)
    num_heads: int = field(tells_presets=True, in_recipe=True)
    depth: int = field(tells_presets=True, in_recipe=True)
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    class_token: bool = field(True, tells_presets=True, in_recipe=True)
    pooling: str = field("token", chosen_at_load=True, in_recipe=True)
    position_embedding: str = field("learned", in_recipe=True)
    position_location: str = field("stem", optional_part=True, in_recipe=True)
    representation_size: int | None = field(None, in_recipe=True)
    dropout: float = field(0.0, chosen_at_load=True)
    attention_dropout: float = field(0.0, chosen_at_load=True)
    stochastic_depth: float = field(0.0, chosen_at_load=True)
    gelu: str = field("tanh", chosen_at_load=True, changes_numbers=True)
    layer_norm_epsilon: float = field(1e-6, chosen_at_load=True, changes_numbers=True)
    layer_scale: float | None = field(None, optional_part=True)
    num_registers: int = field(0, optional_part=True)
    register_positions: bool = field(False, optional_part=True)
    distillation_token: bool = field(False, optional_part=True)
    mask_token: bool = field(False, optional_part=True)
    pre_norm: bool = field(False, optional_part=True)
    final_norm: str = field("tokens", optional_part=True)
    patch_bias: bool = field(True, optional_part=True)
    qkv_bias: bool = field(True, optional_part=True)
    qk_norm: bool = field(False, optional_part=True)
    gated_mlp: bool = field(False, optional_part=True)
    axial_attention: bool = field(False, optional_part=True, tells_presets=True)
    dynamic_image_size: bool = field(False, chosen_at_load=True)
    partial_patches: bool = field(False, optional_part=True)
    position_resize: str | None = field(None, chosen_at_load=True)
    use_head_bias: bool = field(True, optional_part=True)
    head_bias: float = field(0.0, chosen_at_load=True, in_recipe=True)

    def __post_init__(self):
        for name in ("patch_size", "image_size"):
            object.__setattr__(self, name, pair(getattr(self, name), name))
        check_positive(self, "hidden_size", "mlp_dim", "num_heads", "depth", "in_channels")
        check_num_classes(self)
        check_rates(self, "dropout", "attention_dropout", "stochastic_depth")
        check_one_of(
            self,
            pooling=POOLINGS,
            gelu=GELUS,
            final_norm=FINAL_NORMS,
            dynamic_image_size=(False, True),
            partial_patches=(False, True),
            position_resize=(None, *resize_rules.RULES),
        )
        if type(self.num_registers) is not int or not 0 <= self.num_registers < 1 << 16:
            raise ValueError(
                "`num_registers` must be an integer of at least 0. "
                f"Received: {self.num_registers!r}"
            )
        if self.pooling == "distillation" and not (self.class_token and self.distillation_token):
            raise ValueError(
                '`pooling="distillation"` needs a class token and a distillation token. Received: '
                f"class_token={self.class_token}, distillation_token={self.distillation_token}"
            )
        if self.pooling == "token_patch_mean" and self.final_norm == "pooled":
            raise ValueError(
                f'`final_norm="pooled"` needs one pooled vector. Received: pooling={self.pooling!r}'
            )
        check_positions(self)
        if self.representation_size is not None:
            check_positive(self, "representation_size")
        if self.layer_scale is not None:
            check_number(self, "layer_scale")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_size`. "
                f"Received: num_heads={self.num_heads}, hidden_size={self.hidden_size}"
            )
        fits = zip(self.feature_size, self.patch_size, strict=True)
        if any(s < p or (s % p and not self.partial_patches) for s, p in fits):
            raise ValueError(
                f"the patches must fill the image: `patch_size` {self.patch_size} does not divide "
                f"{self.feature_size}. Received: image_size={self.image_size}"
            )

    @property
    def num_leading_tokens(self):
        """How many tokens come before the patches."""
        return self.class_token + self.distillation_token + self.num_registers

    @property
    def num_leading_positions(self):
        """How many rows of learned positions come before those of the patches."""
        registers = 0 if self.register_positions else self.num_registers
        return self.num_leading_tokens - registers

    @property
    def feature_size(self):
        """(height, width) of what is cut into patches: the image."""
        return self.image_size

    @property
    def grid(self):
        """(h, w): how many patches there are in each direction."""
        height, width = self.feature_size
        return height // self.patch_size[0], width // self.patch_size[1]


def check_positions(config):
    """Raises ValueError unless the positions of a `VisionTransformerConfig` fit each other."""
    kind, location = config.position_embedding, config.position_location
    check_one_of(
        config, position_embedding=POSITION_EMBEDDINGS, position_location=POSITION_LOCATIONS
    )
    if kind == "learned2d" and config.hidden_size % 2:
        raise ValueError(
            f"2-D positions need an even `hidden_size`. Received: {config.hidden_size}"
        )
    if location != "stem":
        if kind in RELATIVE or kind == "none":
            raise ValueError(
                "`position_location` is for positions that are added to the tokens. Received: "
                f"position_location={location!r} with position_embedding={kind!r}; relative "
                "positions are in every layer by themselves"
            )
        if kind in SINCOS and location == "every_layer":
            raise ValueError(
                "sine-cosine positions are the same in every layer. Received: "
                f"position_location={location!r}; give 'every_layer_shared'"
            )
        if config.num_registers and not config.register_positions:
            raise ValueError(
                "registers that meet positions in every layer must have some of their own. "
                f"Received: position_location={location!r}, register_positions=False"
            )
    if config.dynamic_image_size:
        _check_dynamic(config)
    if config.axial_attention:
        if kind in RELATIVE:
            raise ValueError(
                "axial attention takes positions that are added to the tokens. "
                f"Received: position_embedding={kind!r}"
            )
        if config.num_leading_tokens or config.pooling == "token":
            raise ValueError(
                "axial attention has no token but the patches. Received: "
                f"{config.num_leading_tokens} other tokens, pooling={config.pooling!r}; give "
                "class_token=False and pooling='mean'"
            )


def _check_dynamic(config):
    kind, location = config.position_embedding, config.position_location
    if hasattr(config, "stage_depths") or config.axial_attention or config.partial_patches:
        raise ValueError(
            "`dynamic_image_size` is for models whose patches are cut from the image, fill it and "
            f"attend to all others. Received: a {type(config).__name__} with axial_attention="
            f"{config.axial_attention}, partial_patches={config.partial_patches}"
        )
    if kind not in ("learned", *SINCOS, "none") or location != "stem":
        raise ValueError(
            "`dynamic_image_size` needs positions that are added at the stem and known for any "
            f"grid, 'learned', 'sincos2d', 'sincos2d_mae' or 'none'. Received: {kind!r} at "
            f"{location!r}"
        )


def check_fixed_size(config, what):
    """Raises ValueError for a model of images of any size, or whose patches do not fill them.

    Args:
        config: A model's configuration.
        what: What needs images of one size, for the message.
    """
    if getattr(config, "dynamic_image_size", False):
        raise ValueError(
            f"{what} needs images of one size. Received: a model with dynamic_image_size=True; "
            "give `dynamic_image_size=False` when it is made or loaded"
        )
    if getattr(config, "partial_patches", False):
        size = tuple(n * side for n, side in zip(config.grid, config.patch_size, strict=True))
        raise ValueError(
            f"{what} needs images that patches fill. Received: a model for {config.image_size} and "
            f"patches of {config.patch_size}; give `image_size={size}` when it is loaded"
        )
