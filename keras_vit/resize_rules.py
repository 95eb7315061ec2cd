"""How libraries bring positions to another grid: each rule is a matrix for each axis.

The functions compute with NumPy, where a file is loaded, or with `keras.ops`, inside a model whose
grid is free; `xp` is one of the two.

Symbols: n samples along one axis of the old grid, m of the new one.
"""


def _at(xp, index, cells, weights):
    """(m, n): row i has weight i in the column that index i names, zeros elsewhere."""
    return xp.where(xp.equal(index[:, None], cells), weights[:, None], 0.0)


def _linear(xp, cells, samples, count):
    """Linear with aligned corners: sample i lies at i (n - 1) / (m - 1), a single one at 0."""
    size = cells.shape[0]
    # The pitch first, as SciPy has it: official trajectories are repeated to its last bit.
    coordinates = samples * ((size - 1) / xp.maximum(count - 1, 1))
    lower = xp.minimum(xp.floor(coordinates), max(size - 2, 0))
    fraction = coordinates - lower
    upper = xp.minimum(lower + 1, size - 1)
    return _at(xp, lower, cells, 1.0 - fraction) + _at(xp, upper, cells, fraction)


def _keys(xp, distance, a):
    """Keys's cubic convolution kernel at a distance: 1 at 0, 0 from 2 on."""
    x = xp.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return xp.where(x <= 1, near, xp.where(x < 2, far, 0.0))


def _cubic(xp, cells, samples, count, offset=0.0):
    """Cubic between the centres of cells; the ends go on as they are (a = -0.75).

    Sample i lies at (i + 1/2) n / (m + offset) - 1/2.
    """
    size = cells.shape[0]
    coordinates = (2 * samples + 1) * size / (2 * (count + offset)) - 0.5
    lower, matrix = xp.floor(coordinates), 0.0
    for step in range(-1, 3):
        weights = _keys(xp, coordinates - lower - step, -0.75)
        matrix += _at(xp, xp.clip(lower + step, 0, size - 1), cells, weights)
    return matrix


def _antialiased_cubic(xp, cells, samples, count):
    """Cubic whose kernel is as wide as a new cell, as Pillow has it (a = -0.5)."""
    size = cells.shape[0]
    width = xp.maximum(size / count, 1.0)
    centres = (2 * samples + 1) * size / (2 * count)
    matrix = _keys(xp, (cells + 0.5 - centres[:, None]) / width, -0.5)
    return matrix / xp.sum(matrix, axis=1, keepdims=True)


def _offset_cubic(xp, cells, samples, count):
    return _cubic(xp, cells, samples, count, offset=0.1)


RULES = {
    # The official code: `scipy.ndimage.zoom(order=1)`.
    "aligned": _linear,
    # transformers: `interpolate(mode="bicubic", align_corners=False)`.
    "bicubic": _cubic,
    # timm, and DINOv2 with registers: the same with `antialias=True`.
    "bicubic_antialias": _antialiased_cubic,
    # facebookresearch/dinov2 without registers: the scale is told as (new + 0.1) / old.
    "bicubic_offset": _offset_cubic,
}


def check_rule(rule):
    """Raises ValueError unless `rule` is a name of `RULES`."""
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}. Received: {rule!r}")


def matrix(rule, xp, cells, samples, count):
    """The linear map along one axis from the old grid to the new one.

    Args:
        rule: A name of `RULES`.
        xp: NumPy or `keras.ops`.
        cells: The numbers 0, ..., n - 1 as floats.
        samples: The numbers 0, ..., m - 1 as floats of the same type.
        count: m as a float of the same type.

    Returns:
        (m, n) floats whose rows sum to 1.

    >>> import numpy as np
    >>> matrix("aligned", np, np.arange(2.0), np.arange(3.0), 3.0).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    >>> matrix("bicubic", np, np.arange(2.0), np.arange(1.0), 1.0).tolist()
    [[0.5, 0.5]]
    """
    return RULES[rule](xp, cells, samples, count)
