"""What the position embeddings say about places (Figures 7 centre and 10 of arXiv:2010.11929v2).

Shapes: h w grid, N = h w patches, T tokens, D hidden.
"""

import numpy as np
from keras import ops

from keras_vit.analysis.blocks import as_float32, check_transformer


def position_similarity(model):
    """Cosine similarity of each patch's position embedding with that of each other.

    The class token's is left out, and nothing is centred.

    Args:
        model: A Vision Transformer or hybrid with positions of either kind.

    Returns:
        (h, w, h, w) float32 in [-1, 1]: entry [i, j] is the map over the grid of the similarity
        with the patch in row i and column j.

    Raises:
        ValueError: for a model without position embeddings at its input.
    """
    check_transformer(model, "position similarity")
    grid = tuple(model.config.grid)
    embeddings = _embeddings(model)[-int(np.prod(grid)) :].astype("float64")  # (N, D)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.where(norms == 0, 1, norms)
    return (directions @ directions.T).reshape(*grid, *grid).astype("float32")


def _embeddings(model):
    """(T, D): what is added to the tokens."""
    layers = {layer.name: layer for layer in model.layers}
    if "posembed_input" not in layers:
        raise ValueError(
            "`model` must add position embeddings to its tokens. Received: a model with "
            f"position_embedding={model.config.position_embedding!r}"
        )
    layer = layers["posembed_input"]
    if hasattr(layer, "embedding"):
        return as_float32(layer.embedding)[0]
    if model.config.dynamic_image_size:
        return as_float32(layer.positions(model.config.grid))
    # Positions that are no variable: what the layer makes of zeros.
    return as_float32(layer(ops.zeros((1, *layer.input.shape[1:]))))[0]
