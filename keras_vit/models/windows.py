"""The encoder of a model with attention inside windows, as ViTDet changes it (arXiv:2203.16527)."""

import keras

from keras_vit.layers.pooling import TokenGrid
from keras_vit.layers.windows import WindowedBlock
from keras_vit.models.features import block_indices
from keras_vit.models.fields import pair
from keras_vit.models.vit_config import RELATIVE, check_fixed_size


def windowed_features(model, window=14, global_blocks=None, relative_positions=False):
    """A model's last map, most of whose blocks attend inside windows; weights are shared.

    Args:
        model: A `VisionTransformer` or `HybridVisionTransformer`, of any checkpoint.
        window: (u, v) in patches, or one integer; a side that is longer than the grid's is the
            grid's, so that one window over the whole grid is the model's own attention.
        global_blocks: Indices of the blocks that attend to all tokens, negative ones from the
            last; None takes the last of each quarter: 2, 5, 8 and 11 of twelve.
        relative_positions: Whether decomposed relative positions, zero at first, are added in all
            blocks.  In the global ones they take memory that grows with the square of the tokens.

    Returns:
        A functional `keras.Model` from images to (B, h, w, D), without the final norm.

    Raises:
        ValueError: For a model without encoder blocks or whose blocks add positions or attend along
            axes, a window that is not positive, or a block that does not exist.
    """
    config = model.config
    if not hasattr(config, "hidden_size"):
        raise ValueError(f"windows need encoder blocks. Received: {type(model).__name__}")
    check_fixed_size(config, "attention inside windows")
    kind, location = config.position_embedding, config.position_location
    if config.axial_attention or kind in RELATIVE or location != "stem":
        raise ValueError(
            "windows need whole attention and positions at the stem alone. Received: "
            f"axial_attention={config.axial_attention}, position_embedding={kind!r}, "
            f"position_location={location!r}"
        )
    asked = pair(window, "window")
    window = tuple(min(sides) for sides in zip(asked, config.grid, strict=True))
    depth = config.depth
    if global_blocks is None:
        global_blocks = sorted({max(depth * quarter // 4, 1) - 1 for quarter in (1, 2, 3, 4)})
    whole = set(block_indices(global_blocks, depth))
    x = model.get_layer("encoderblock_0").input  # (B, T, D)
    for index in range(depth):
        block = model.get_layer(f"encoderblock_{index}")
        if index not in whole or relative_positions:
            block = WindowedBlock(
                block,
                config.grid,
                config.grid if index in whole else window,
                relative_positions,
                dtype=model.dtype_policy,
                name=f"windows_{index}",
            )
        x = block(x)
    grid = TokenGrid(config.grid, dtype=model.dtype_policy, name="windows_grid")(x)
    return keras.Model(model.input, grid, name=f"{model.name}_windows")
