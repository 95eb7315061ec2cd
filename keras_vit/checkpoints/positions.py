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


def _cubic(distance, a):
    """Keys's cubic convolution kernel at a distance: 1 at 0, 0 from 2 on."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def cubic_matrix(size, new_size, offset=0.0):
    """Cubic interpolation between the centres of cells; the ends go on as they are (a = -0.75).

    Sample i lies at (i + 1/2) size / (new_size + offset) - 1/2 of the original.

    Args:
        size: number of samples, at least 1.
        new_size: number of samples wanted, at least 1.
        offset: 0.1 in DINOv2's own code, else 0.

    Returns:
        (new_size, size) float64 array whose rows sum to 1.

    >>> cubic_matrix(2, 1).tolist()
    [[0.5, 0.5]]
    """
    coordinates = (np.arange(new_size) + 0.5) * (size / (new_size + offset)) - 0.5
    matrix = np.zeros((new_size, size))
    for step in range(-1, 3):
        index = np.floor(coordinates).astype(int) + step
        weights = _cubic(coordinates - index, -0.75)
        np.add.at(matrix, (np.arange(new_size), np.clip(index, 0, size - 1)), weights)
    return matrix


def antialiased_cubic_matrix(size, new_size):
    """Cubic interpolation whose kernel is as wide as a new cell, as Pillow has it (a = -0.5).

    Args:
        size: number of samples, at least 1.
        new_size: number of samples wanted, at least 1.

    Returns:
        (new_size, size) float64 array whose rows sum to 1.

    >>> antialiased_cubic_matrix(4, 4).round(9).tolist()[1]
    [0.0, 1.0, 0.0, 0.0]
    """
    scale = size / new_size
    width = max(scale, 1.0)
    centres = (np.arange(new_size) + 0.5) * scale
    matrix = _cubic((np.arange(size) + 0.5 - centres[:, None]) / width, -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


# How a library resizes positions: name -> (samples, samples wanted) -> matrix.
RESIZE_RULES = {
    # The official code: `scipy.ndimage.zoom(order=1)`.
    "aligned": interpolation_matrix,
    # transformers: `interpolate(mode="bicubic", align_corners=False)`.
    "bicubic": cubic_matrix,
    # timm: the same with `antialias=True`.
    "bicubic_antialias": antialiased_cubic_matrix,
    # facebookresearch/dinov2: the scale is told as (new + 0.1) / old.
    "bicubic_offset": lambda size, new_size: cubic_matrix(size, new_size, offset=0.1),
}


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
        rule: A name of `RESIZE_RULES`.

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
    if rule not in RESIZE_RULES:
        names = ", ".join(RESIZE_RULES)
        raise ValueError(f"`rule` must be one of {names}. Received: {rule!r}")
    matrix, features = RESIZE_RULES[rule], positions.shape[-1]
    prefix, patches = positions[0, :num_prefix_tokens], positions[0, num_prefix_tokens:]
    resized = np.einsum(
        "ah,bw,hwd->abd",
        matrix(grid[0], new_grid[0]),
        matrix(grid[1], new_grid[1]),
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
    matrix = interpolation_matrix(len(table), new_size)
    return (matrix @ table.astype(np.float64)).astype(np.float32)
