"""What the first layer looks for (Figure 7 left of arXiv:2010.11929v2).

Shapes: P Q filter height and width in pixels, C channels, D filters, n components.
"""

import dataclasses

import numpy as np

from keras_vit.analysis.blocks import as_float32

NUM_COMPONENTS = 28  # as in Figure 7


@dataclasses.dataclass(frozen=True)
class FilterComponents:
    """Principal components of the filters of the layer that sees the pixels.

    Attributes:
        components: (n, P, Q, C) float32 of norm 1, the strongest first; the sign is chosen so that
            the largest entry is positive.
        explained_variance_ratio: (n,) share of the filters' variance along each (of their sum of
            squares where they are not centred).
        mean: (P, Q, C), what was subtracted from each filter; zeros where nothing was.
        singular_values: (n,).
        layer: Name of the layer.
    """

    components: np.ndarray
    explained_variance_ratio: np.ndarray
    mean: np.ndarray
    singular_values: np.ndarray
    layer: str


def embedding_filters(model, num_components=NUM_COMPONENTS, *, centered=True):
    """Principal components of the embedding filters.

    The D filters are vectors of P x Q x C numbers; the components are the right singular vectors of
    the matrix whose rows they are.  A Vision Transformer's filters are those of `embedding`; a
    hybrid's and a BiT-ResNet's are those of the first convolution, as they are stored (an embedding
    of feature maps has no colours).

    Args:
        model: A model of the package.
        num_components: Number of components, at most; a layer has at most D and P Q C.
        centered: Whether the mean filter is subtracted first, as a principal component analysis
            does.

    Returns:
        `FilterComponents`.

    Raises:
        ValueError: for a number of components below 1, or a model of another package.
    """
    if num_components < 1:
        raise ValueError(f"`num_components` must be at least 1. Received: {num_components}")
    name = _first_layer(model)
    kernel = as_float32(model.get_layer(name).kernel)  # (P, Q, C, D)
    filters = kernel.reshape(-1, kernel.shape[-1]).T.astype("float64")  # (D, P Q C)
    mean = filters.mean(axis=0) if centered else np.zeros(filters.shape[1])
    _, values, axes = np.linalg.svd(filters - mean, full_matrices=False)
    count = min(num_components, len(values))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1, 1)
    total = float((values**2).sum())
    ratios = values**2 / total if total else np.zeros_like(values)
    return FilterComponents(
        components=axes[:count].reshape(count, *kernel.shape[:-1]).astype("float32"),
        explained_variance_ratio=ratios[:count].astype("float32"),
        mean=mean.reshape(kernel.shape[:-1]).astype("float32"),
        singular_values=values[:count].astype("float32"),
        layer=name,
    )


def _first_layer(model):
    names = {layer.name for layer in model.layers}
    for name in ("conv_root", "root_conv", "embedding"):
        if name in names:
            return name
    raise ValueError(
        "`model` must have a layer `embedding`, `conv_root` or `root_conv`, as the models of this "
        f"package have. Received: {type(model).__name__}"
    )
