"""Pictures that are the same but for their encoding, their size or a touch of their colours.

Two are near-duplicates where their colours at 8 x 8 pixels, a and b, differ by

    rms(a - b) <= NOISE + CONTRAST min(std(a), std(b))

in grey levels of 255: what an encoder changes, more where there is more to be seen.  A crop or a
mirror image is not one.

Shapes: n images.
"""

import numpy as np

NOISE = 1.0
CONTRAST = 0.1
# No picture deviates more than one of which half is black and half is white.
_LARGEST = NOISE + CONTRAST * 127.5
_BLOCK = 512  # rows that are compared at a time


def group(digests, colours):
    """Numbers that are the same for pictures that are copies or near-duplicates of each other.

    What is alike is put together also over a third picture.

    Args:
        digests: n texts, of the files' contents; equal ones are copies.
        colours: float32 (n, 192), in [0, 255]; nan for what is not decoded.

    Returns:
        int (n,), for each the smallest index of its group.
    """
    parents = np.arange(len(digests))

    def root(i):
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    def join(first, second):
        a, b = root(first), root(second)
        parents[max(a, b)] = min(a, b)

    seen = {}
    for i, digest in enumerate(digests):
        join(seen.setdefault(digest, i), i)
    # One of each content, of what is decoded.
    chosen = np.array([i for i in seen.values() if not np.isnan(colours[i, 0])], int)
    for first, second in _alike(colours[chosen]):
        join(chosen[first], chosen[second])
    return np.array([root(i) for i in range(len(digests))], int)


def _alike(colours):
    """Yields pairs of rows that are near-duplicates."""
    # The means of two differ by no more than their rms: only neighbours by mean are compared.
    means, deviations = colours.mean(axis=1), colours.std(axis=1)
    order = np.argsort(means, kind="stable")
    ends = np.searchsorted(means[order], means[order] + _LARGEST, side="right")
    colours, deviations = colours[order] - 127.5, deviations[order]
    squares = np.sum(colours**2, axis=1)
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, start + _BLOCK)
        columns = slice(start, ends[rows].max())
        products = colours[rows] @ colours[columns].T
        distances = squares[rows, np.newaxis] + squares[columns] - 2 * products
        limits = NOISE + CONTRAST * np.minimum(deviations[rows, np.newaxis], deviations[columns])
        for i, j in zip(*np.nonzero(distances <= colours.shape[1] * limits**2), strict=True):
            if i < j:
                yield order[start + i], order[start + j]
