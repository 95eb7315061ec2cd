"""The kernel that images meet first, for other patches or another number of channels.

Shapes: P Q height and width of a patch in pixels, C channels, D features.
"""

import math

import numpy as np

# Singular values below this share of the largest are noise; those of a resize are above 0.1.
_CUT_OFF = 1e-5


def bilinear_matrix(size, new_size):
    """Linear interpolation with half-pixel centres and without antialiasing.

    Sample i of the result lies at (i + 1/2) size / new_size - 1/2 of the original.

    Args:
        size: Number of samples, at least 1.
        new_size: Number of samples wanted, at least 1.

    Returns:
        (new_size, size) float64 array whose rows sum to 1.

    >>> bilinear_matrix(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    coordinates = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    lower = np.floor(coordinates).astype(int)
    fraction = coordinates - lower
    matrix = np.zeros((new_size, size))
    rows = np.arange(new_size)
    matrix[rows, lower] = 1.0 - fraction
    matrix[rows, np.minimum(lower + 1, size - 1)] += fraction
    return matrix


def resize_patches(kernel, patch_size):
    """The pseudo-inverse resize of FlexiViT (arXiv:2212.08013, section 3.4).

    With B the matrix of a bilinear resize of patches, w' = pinv(B^T) w: an enlarged patch then has
    the same product with the new kernel as the patch with the old one.

    Args:
        kernel: (P, Q, C, D) floats.
        patch_size: (P', Q') in pixels.

    Returns:
        (P', Q', C, D) float32 array; the same array if the size is the same.
    """
    if kernel.shape[:2] == tuple(patch_size):
        return kernel
    rows, columns = (
        np.linalg.pinv(bilinear_matrix(size, new_size).T, rcond=_CUT_OFF)
        for size, new_size in zip(kernel.shape[:2], patch_size, strict=True)
    )
    resized = np.einsum("ap,bq,pqcd->abcd", rows, columns, kernel.astype(np.float64), optimize=True)
    return resized.astype(np.float32)


def adapt_channels(kernel, in_channels):
    """A kernel for images of another number of channels, as timm's `in_chans` adapts it.

    Args:
        kernel: (P, Q, 3, D) floats, for RGB.
        in_channels: 1 for the sum over the channels, so that a grey image gives what its
            repetition as RGB gave; more for the three repeated in turn and scaled by
            3 / in_channels.

    Returns:
        (P, Q, in_channels, D) float32 array; the same array if the number is the same.

    Raises:
        ValueError: For a kernel of another number of channels than 3.
    """
    channels = kernel.shape[2]
    if channels == in_channels:
        return kernel
    if channels != 3:
        raise ValueError(
            f"`in_channels` can be chosen for files of RGB models. Received: {in_channels} for a "
            f"file of {channels} channels"
        )
    if in_channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
    repeated = np.tile(kernel, (1, 1, math.ceil(in_channels / 3), 1))[:, :, :in_channels]
    return (repeated * (3.0 / in_channels)).astype(np.float32)
