"""Feature extractors: functional models that share the weights of a model and end at its blocks.

Shapes: B batch, T tokens, h w grid, D hidden, F channels of a stage.
"""

import keras

from keras_vit.layers import TokenGrid

LAYOUTS = ("tokens", "grid")


def block_indices(blocks, depth):
    """The indices of blocks, counted from the first.

    Args:
        blocks: Integers from -depth to depth - 1; negative ones count from the last.
        depth: Number of blocks.

    Returns:
        A list of integers from 0 to depth - 1, in the order given.

    Raises:
        ValueError: For one that is no index of a block.

    >>> block_indices((2, -1), 12)
    [2, 11]
    """
    indices = [blocks] if isinstance(blocks, int) else list(blocks)
    for index in indices:
        is_integer = isinstance(index, int) and not isinstance(index, bool)
        if not is_integer or not -depth <= index < depth:
            raise ValueError(
                f"`blocks` must be integers between {-depth} and {depth - 1}. Received: {index!r}"
            )
    return [index % depth for index in indices]


def check_layout(layout):
    """Raises ValueError unless `layout` is one of `LAYOUTS`."""
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")


def transformer_features(model, blocks, layout, normalize):
    """The feature extractor of a model with encoder blocks.

    Args:
        model: A `VisionTransformer` or `HybridVisionTransformer`.
        blocks: Indices of its encoder blocks; negative ones count from the last.
        layout: `"tokens"` for (B, T, D), `"grid"` for the patches alone as (B, h, w, D).
        normalize: Whether the final norm is applied to each output.

    Returns:
        A functional `keras.Model` whose outputs are a dict from `"block_{i}"` to features.

    Raises:
        ValueError: For a block that does not exist or an unknown layout.
    """
    check_layout(layout)
    config, last = model.config, model.config.depth - 1
    pooled = config.final_norm == "pooled"  # then it is applied to each token in its place
    norm = model.get_layer("pooled_norm" if pooled else "encoder_norm")
    outputs = {}
    for index in block_indices(blocks, config.depth):
        x = model.get_layer(f"encoderblock_{index}").output  # (B, T, D)
        if f"block_{index}" in outputs:
            continue
        if normalize:
            x = norm.output if index == last and not pooled else norm(x)
        if layout == "grid":
            x = _grid(model, x, f"grid_{index}")
        outputs[f"block_{index}"] = x
    return _model(model, outputs)


def _grid(model, tokens, name):
    """The patches among tokens as a map (B, h, w, D)."""
    if model.config.dynamic_image_size:
        layer = TokenGrid(None, dtype=model.dtype_policy, name=name)
        return layer(tokens, model.get_layer("embedding").output)
    return TokenGrid(model.config.grid, dtype=model.dtype_policy, name=name)(tokens)


def resnet_features(model, blocks, layout, normalize):
    """The feature extractor of a ResNet, whose stages are its blocks.

    Args:
        model: A `BiTResNet` or `AxialResNet`.
        blocks: Indices of its stages; negative ones count from the last.
        layout: `"grid"`: there are no tokens.
        normalize: Whether the final norm and its ReLU are applied; only the last stage has one, and
            in an AxialResNet they are part of it.

    Returns:
        A functional `keras.Model` whose outputs are a dict from `"block_{i}"` to (B, h, w, F).

    Raises:
        ValueError: For a stage that does not exist, for tokens, or for the norm of another stage
            than the last.
    """
    check_layout(layout)
    if layout != "grid":
        raise ValueError(f"a ResNet has no tokens. Received: layout={layout!r}; give layout='grid'")
    depths = model.config.stage_depths
    outputs = {}
    for index in block_indices(blocks, len(depths)):
        features = model.get_layer(f"block{index + 1}_unit{depths[index]}").output
        if normalize:
            if index != len(depths) - 1:
                raise ValueError(
                    "the final norm is that of the last stage alone. Received: normalize=True for "
                    f"stage {index} of {len(depths)}; give normalize=False"
                )
            features = model.get_layer("pre_logits").input
        outputs[f"block_{index}"] = features
    return _model(model, outputs)


def _model(model, outputs):
    if not outputs:
        raise ValueError("`blocks` must name at least one block. Received: none")
    return keras.Model(model.input, outputs, name=f"{model.name}_features")
