"""Masks as people see them: a color for each class, over the picture."""

import numpy as np

_SHARE = 0.5  # of the color


def colors(number):
    """uint8 (number, 3): colors that are told apart, those of Pascal VOC.

    >>> colors(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    table = np.zeros((number, 3), np.uint8)
    for index in range(number):
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                table[index, channel] |= (bits >> channel & 1) << shift
            bits >>= 3
    return table


def overlay(image, mask, table):
    """The image with half of each class's color over it: uint8 (..., 3).

    Args:
        image: uint8 (..., 3).
        mask: integers (...), classes.
        table: uint8 (number, 3), of `colors`.
    """
    mixed = (1 - _SHARE) * image.astype(np.float32) + _SHARE * table[mask].astype(np.float32)
    return np.round(mixed).astype(np.uint8)
