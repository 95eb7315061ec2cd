"""Position embeddings at another resolution (arXiv:2010.11929v2, section 3.2).

Shapes: h w the old grid and h' w' the new one, in patches; D features.
"""

import numpy as np


def interpolation_matrix(size, new_size):
    """Linear interpolation with aligned corners from `size` to `new_size` samples.

    Sample i of the result lies at i (size - 1) / (new_size - 1) of the original; a single sample
    lies at 0.

    Args:
        size: number of samples, at least 1.
        new_size: number of samples wanted, at least 1.

    Returns:
        (new_size, size) float64 array whose rows sum to 1.

    >>> interpolation_matrix(2, 3).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    coordinates = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    lower = np.minimum(coordinates.astype(int), max(size - 2, 0))
    fraction = coordinates - lower
    matrix = np.zeros((new_size, size))
    rows = np.arange(new_size)
    matrix[rows, lower] = 1.0 - fraction
    matrix[rows, np.minimum(lower + 1, size - 1)] += fraction
    return matrix


def resize_positions(positions, grid, new_grid, num_prefix_tokens=1):
    """Bilinear interpolation of the patches' vectors; those of prefix tokens stay as they are.

    The same numbers as the official code's `scipy.ndimage.zoom(order=1)`, but for the sizes where
    that leaves the last row and column zero by a rounding error (28 -> 48 is one): there, the
    interpolation that it means.

    Args:
        positions: (1, num_prefix_tokens + h w, D) floats.
        grid: (h, w) of `positions`, in patches.
        new_grid: (h', w') wanted.
        num_prefix_tokens: rows before the grid's: 1 for a class token, else 0.

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
    features = positions.shape[-1]
    prefix, patches = positions[0, :num_prefix_tokens], positions[0, num_prefix_tokens:]
    resized = np.einsum(
        "ah,bw,hwd->abd",
        interpolation_matrix(grid[0], new_grid[0]),
        interpolation_matrix(grid[1], new_grid[1]),
        patches.reshape(*grid, features).astype(np.float64),
        optimize=True,
    )
    resized = resized.reshape(-1, features).astype(np.float32)
    return np.concatenate([prefix.astype(np.float32), resized])[None]
