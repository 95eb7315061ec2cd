"""Numbers about weights and activations, layer by layer.

Shapes: b images of one batch, T tokens, D hidden.
"""

import numpy as np
from keras import ops

from keras_vit.analysis.blocks import as_float32


def weight_statistics(model):
    """Mean, deviation and extremes of each variable of a model.

    Args:
        model: Any Keras model.

    Returns:
        A list of dicts, one a variable in the model's order: `path`, `shape`, `size`, `mean`,
        `std`, `min`, `max`, `norm` (Euclidean), `zeros` (share of entries that are 0) and
        `not_finite` (number of entries that are NaN or infinite, which the others leave out).
    """
    return [_row(variable) for variable in model.weights]


def _row(variable):
    values = as_float32(variable).ravel()
    finite = values[np.isfinite(values)]
    # An empty set of numbers has no mean.
    shown = finite if finite.size else np.zeros(1, "float32")
    return {
        "path": variable.path,
        "shape": tuple(variable.shape),
        "size": int(values.size),
        "mean": float(shown.mean(dtype="float64")),
        "std": float(shown.std(dtype="float64")),
        "min": float(shown.min()),
        "max": float(shown.max()),
        "norm": float(np.sqrt(np.square(shown, dtype="float64").sum())),
        "zeros": float((values == 0).mean()) if values.size else 0.0,
        "not_finite": int(values.size - finite.size),
    }


class Activations:
    """Collects statistics of what leaves each block, over all images and tokens.

    Args:
        walk: A `Walk`.
    """

    def __init__(self, walk):
        self._first = walk.num_prefix
        self._sums = np.zeros((walk.depth, 5))  # count, sum, squares, norms, tokens
        self._largest = np.zeros(walk.depth)

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        tokens = ops.cast(step.outputs, "float32")  # (b, T, D)
        squares = as_float32(ops.sum(ops.square(tokens), axis=-1)).astype("float64")  # (b, T)
        sums = as_float32(ops.sum(tokens, axis=-1)).astype("float64")
        self._sums[step.block] += (
            squares.size * tokens.shape[-1],
            sums.sum(),
            squares.sum(),
            np.sqrt(squares).sum(),
            squares.size,
        )
        largest = float(as_float32(ops.max(ops.abs(tokens))))
        self._largest[step.block] = max(self._largest[step.block], largest)

    @property
    def result(self):
        """A list of dicts, one a block: `layer`, `mean`, `std`, `token_norm` (mean), `largest`."""
        rows = []
        for block, (count, total, squares, norms, tokens) in enumerate(self._sums):
            mean = total / count
            rows.append(
                {
                    "layer": f"encoderblock_{block}",
                    "mean": float(mean),
                    "std": float(np.sqrt(max(squares / count - mean**2, 0.0))),
                    "token_norm": float(norms / tokens),
                    "largest": float(self._largest[block]),
                }
            )
        return rows
