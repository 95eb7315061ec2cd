"""Where a Vision Transformer has positions, and of which kind (D.4 of arXiv:2010.11929v2)."""

from keras_vit.layers import (
    DynamicPositionEmbedding,
    DynamicSinCosEmbedding,
    LearnedPositionEmbedding,
    LearnedPositionEmbedding2D,
    SinCosPositionEmbedding,
)
from keras_vit.models.vit_config import SINCOS


def position_layers(config, policy):
    """The layers that add positions, one for each place.

    Args:
        config: `VisionTransformerConfig`.
        policy: dtype policy of the layers.

    Returns:
        A list of L layers: that at index i adds to the input of block i, the first one at the stem.
        None stands where nothing is added; shared positions are one layer in all places.
    """
    layer_class, arguments = {
        "learned": (LearnedPositionEmbedding, ()),
        "learned2d": (LearnedPositionEmbedding2D, (config.grid,)),
        **{
            kind: (SinCosPositionEmbedding, (config.grid, frequencies))
            for kind, frequencies in SINCOS.items()
        },
    }.get(config.position_embedding, (None, ()))
    if layer_class is None:
        return [None] * config.depth
    if config.dynamic_image_size:
        return [_dynamic(config, policy)] + [None] * (config.depth - 1)
    first = layer_class(*arguments, dtype=policy, name="posembed_input")
    if config.position_location == "every_layer_shared":
        return [first] * config.depth
    others = [None] * (config.depth - 1)
    if config.position_location == "every_layer":
        others = [
            layer_class(*arguments, dtype=policy, name=f"posembed_{i}")
            for i in range(1, config.depth)
        ]
    return [first, *others]


def _dynamic(config, policy):
    """The layer of a model whose grid is free; it takes the patches, too."""
    kind, name = config.position_embedding, "posembed_input"
    if kind in SINCOS:
        return DynamicSinCosEmbedding(
            config.num_leading_tokens, SINCOS[kind], dtype=policy, name=name
        )
    resize = config.position_resize or "aligned"
    return DynamicPositionEmbedding(
        config.grid, config.num_leading_positions, resize, dtype=policy, name=name
    )
