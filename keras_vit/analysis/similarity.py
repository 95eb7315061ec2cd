"""How alike the representations of blocks and of models are: linear CKA (arXiv:1905.00414).

Shapes: B images, D features, L blocks.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_vit.analysis.blocks import Walk, as_float32, batches, check_images

FEATURES = ("mean", "token")


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Linear CKA between the layers of one model, or of two.

    Attributes:
        values: (rows, columns) float32 in [0, 1].
        rows: Names of the first model's layers.
        columns: Names of the second's.
    """

    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def linear_cka(first, second):
    """Linear centred kernel alignment of two representations of the same examples.

    ||Y' X||^2 / (||X' X|| ||Y' Y||) in Frobenius norms, X and Y with the mean of each column
    subtracted (Eq. 3 of arXiv:1905.00414, computed in float64).

    Args:
        first: (B, p) array.
        second: (B, q) array.

    Returns:
        A float in [0, 1]; 1 for representations that differ by a rotation, a scale and a shift; nan
        where one of them is the same for all examples.

    Raises:
        ValueError: unless both have the same two or more examples.

    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])
    >>> round(linear_cka(x, -3 * x[:, ::-1] + 1), 6)
    1.0
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise ValueError(
            "linear CKA needs two arrays (B, p) and (B, q) of the same two or more examples. "
            f"Received: shapes {first.shape} and {second.shape}"
        )
    return float((_unit_gram(first) * _unit_gram(second)).sum())


def representation_similarity(
    model, images, other=None, other_images=None, *, features="mean", batch_size=None
):
    """Linear CKA between all blocks of a model, or all blocks of two models.

    Args:
        model: A model of the package.
        images: (B, H, W, C), as for a call of the model, at least two.
        other: Another model of any family; None compares the model with itself.
        other_images: The same B images as the other model takes them; None for `images`.
        features: What stands for an image, as in `block_features`.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        `Similarity`.

    Raises:
        ValueError: as `block_features` and `linear_cka`.
    """
    options = {"features": features, "batch_size": batch_size}
    rows = block_features(model, images, **options)
    columns = rows
    if other is not None:
        shown = images if other_images is None else other_images
        columns = block_features(other, shown, **options)
    return compare(rows, columns)


def compare(rows, columns):
    """`Similarity` of two results of `block_features` on the same images."""
    counts = {len(values) for values in (*rows.values(), *columns.values())}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "representations are compared on the same two or more images. Received: "
            f"{' and '.join(map(str, sorted(counts)))} images"
        )
    grams = [np.stack([_unit_gram(x) for x in side.values()]) for side in (rows, columns)]
    values = np.einsum("rij,cij->rc", *grams, optimize=True)
    return Similarity(values.astype("float32"), tuple(rows), tuple(columns))


def block_features(model, images, *, features="mean", batch_size=None):
    """One vector for each image after each block.

    Args:
        model: A model of the package.
        images: (B, H, W, C), as for a call of the model.
        features: `"mean"` for the mean over the patches (over the feature map in BiT-ResNets), or
            `"token"` for the class token.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        A dict from the name of each encoder block, or unit of a BiT-ResNet, to (B, D) float32.

    Raises:
        ValueError: for an unknown kind of features, a class token that is not there, or images of
            another size.
    """
    if features not in FEATURES:
        raise ValueError(f"`features` must be one of {FEATURES}. Received: {features!r}")
    images = check_images(model, images)
    if features == "token" and not getattr(model.config, "class_token", False):
        raise ValueError(
            f"`features` 'token' needs a class token. Received: {type(model).__name__} without; "
            "use 'mean'"
        )
    if not hasattr(model.config, "hidden_size"):
        return _unit_features(model, images, batch_size)
    walk = Walk(model, images.shape[1:3])
    collector = Features(walk, images.shape[0], features)
    for step in walk.steps(images, batch_size=batch_size):
        collector.see(step)
    return collector.result


class Features:
    """Collects `block_features` of a Vision Transformer or hybrid."""

    def __init__(self, walk, num_images, features="mean"):
        shape = (num_images, walk.model.config.hidden_size)
        self.result = {f"encoderblock_{i}": np.zeros(shape, "float32") for i in range(walk.depth)}
        self._first = walk.num_prefix
        self._is_token = features == "token"

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        if self._is_token:
            values = step.outputs[:, 0]
        else:
            # In float32: a sum of thousands of numbers in 16 bits is worth little.
            values = ops.mean(ops.cast(step.outputs[:, self._first :], "float32"), axis=1)
        self.result[f"encoderblock_{step.block}"][step.rows] = as_float32(values)


def _unit_features(model, images, batch_size):
    """`block_features` of a BiT-ResNet: the mean over each unit's feature map."""
    layers = [layer for layer in model.layers if layer.name.startswith("block")]
    means = keras.Model(
        model.input,
        {x.name: ops.mean(ops.cast(x.output, "float32"), axis=(1, 2)) for x in layers},
    )
    result = {
        layer.name: np.zeros((images.shape[0], layer.output.shape[-1]), "float32")
        for layer in layers
    }
    for rows, batch in batches(model, images, batch_size):
        # A compiled call frees each feature map once it is used.
        for name, values in means.predict_on_batch(batch).items():
            result[name][rows] = as_float32(values)
    return result


def _unit_gram(features):
    """(B, B) float64: inner products of the centred examples, divided by their norm."""
    centered = features.astype("float64") - features.mean(axis=0, dtype="float64")
    gram = centered @ centered.T
    norm = np.linalg.norm(gram)
    return gram / norm if norm else np.full_like(gram, np.nan)
