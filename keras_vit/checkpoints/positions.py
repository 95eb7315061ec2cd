"""Position embeddings at another resolution (arXiv:2010.11929v2, section 3.2).

Shapes: h w the old grid and h' w' the new one, in patches; D features.
"""

import numpy as np

from keras_vit import resize_rules


def resize_matrix(rule, size, new_size):
    """(new_size, size) float64: how a rule of `resize_rules.RULES` brings one axis to another size.

    >>> resize_matrix("bicubic_antialias", 4, 4).round(9).tolist()[1]
    [0.0, 1.0, 0.0, 0.0]
    """
    cells, samples = np.arange(size, dtype="float64"), np.arange(new_size, dtype="float64")
    return resize_rules.matrix(rule, np, cells, samples, np.float64(new_size))


def resize_positions(positions, grid, new_grid, num_prefix_tokens=1, rule="aligned"):
    """Interpolation of the patches' vectors; those of prefix tokens stay as they are.

    By default bilinear: the same numbers as the official code's `scipy.ndimage.zoom(order=1)`, but
    for the sizes where that leaves the last row and column zero by a rounding error (28 -> 48 is
    one): there, the interpolation that it means.

    Args:
        positions: (1, num_prefix_tokens + h w, D) floats.
        grid: (h, w) of `positions`, in patches.
        new_grid: (h', w') wanted.
        num_prefix_tokens: rows before the grid's: 1 for a class token, else 0.
        rule: A name of `resize_rules.RULES`.

    Returns:
        (1, num_prefix_tokens + h' w', D) float32 array.

    Raises:
        ValueError: if the rows are not those of the grid, or a grid is empty.
    """
    if min(*grid, *new_grid) < 1:
        raise ValueError(f"grids must be at least 1 by 1. Received: {grid} and {new_grid}")
    rows = num_prefix_tokens + grid[0] * grid[1]
    if positions.ndim != 3 or positions.shape[:2] != (1, rows):
        raise ValueError(
            f"`positions` must have the shape (1, {rows}, D) of a {grid[0]}x{grid[1]} grid and "
            f"{num_prefix_tokens} prefix tokens. Received: {positions.shape}"
        )
    resize_rules.check_rule(rule)
    features = positions.shape[-1]
    prefix, patches = positions[0, :num_prefix_tokens], positions[0, num_prefix_tokens:]
    resized = np.einsum(
        "ah,bw,hwd->abd",
        resize_matrix(rule, grid[0], new_grid[0]),
        resize_matrix(rule, grid[1], new_grid[1]),
        patches.reshape(*grid, features).astype(np.float64),
        optimize=True,
    )
    resized = resized.reshape(-1, features).astype(np.float32)
    return np.concatenate([prefix.astype(np.float32), resized])[None]


def resize_table(table, new_size):
    """The positions along one axis at another size (D.4), as `resize_positions` has both.

    Args:
        table: (size, D) floats.
        new_size: number of rows wanted, at least 1.

    Returns:
        (new_size, D) float32 array; a table of that size as it is.

    >>> resize_table(np.array([[0.0], [1.0]]), 3).ravel().tolist()
    [0.0, 0.5, 1.0]
    """
    if len(table) == new_size:
        return table
    matrix = resize_matrix("aligned", len(table), new_size)
    return (matrix @ table.astype(np.float64)).astype(np.float32)
