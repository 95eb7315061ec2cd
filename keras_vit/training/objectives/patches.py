"""Patches of an image inside tf.data: what is left of them, and what is to be predicted.

Shapes: H W pixels, C channels, P Q pixels of a patch, h w grid, N = h w patches, M of them chosen.
"""

import dataclasses
import math

import tensorflow as tf

from keras_vit.models.hybrid import HybridVisionTransformer
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.vit import VisionTransformer
from keras_vit.models.vit_config import check_fixed_size

COLOR_LEVELS = 8  # 3 bits a channel
MAX_COLOR_CHANNELS = 4
DOWNSIZED = 4  # pixels along each side of a downsized patch
# Keeps a mean on the edge of two levels, which float32 may miss by 1e-6, in the upper one; means of
# whole pixel values are further apart.
_LEVEL_SLACK = 1e-5


@dataclasses.dataclass(frozen=True)
class Patches:
    """How a model cuts its images.

    Args:
        size: (P, Q) in pixels.
        grid: (h, w).
        channels: C.
        preprocessing: What made the pixels.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    channels: int
    preprocessing: Preprocessing

    @property
    def number(self):
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def num_values(self):
        """P Q C."""
        return self.size[0] * self.size[1] * self.channels

    def cut(self, image):
        """(H, W, C) -> (N, P, Q, C), in reading order."""
        (height, width), (rows, columns) = self.size, self.grid
        parts = tf.reshape(image, (rows, height, columns, width, self.channels))
        parts = tf.transpose(parts, (0, 2, 1, 3, 4))
        return tf.reshape(parts, (self.number, height, width, self.channels))

    def pixels(self, image):
        """(H, W, C) -> (N, P Q C): the values of each patch as they go into the model."""
        return tf.reshape(self.cut(image), (self.number, self.num_values))

    def mean_colors(self, image):
        """(H, W, C) -> int32 (N,): the mean color of each patch, one of 8^C."""
        return self._color_classes(tf.reduce_mean(self.cut(image), (1, 2)))

    def downsized_colors(self, image):
        """(H, W, C) -> int32 (N, 16): the colors of each patch made 4 x 4 by area means."""
        height, width = (side // DOWNSIZED for side in self.size)
        parts = self.cut(image)
        parts = tf.reshape(parts, (-1, DOWNSIZED, height, DOWNSIZED, width, self.channels))
        means = tf.reduce_mean(parts, (2, 4))  # (N, 4, 4, C)
        return tf.reshape(self._color_classes(means), (-1, DOWNSIZED**2))

    def _color_classes(self, means):
        """(..., C) mean values as the model sees them -> int32 (...)."""
        rule = self.preprocessing
        if rule.mean is not None:
            means = means * rule.std + rule.mean
        low, high = rule.value_range
        levels = tf.floor((means - low) / (high - low) * COLOR_LEVELS + _LEVEL_SLACK)
        levels = tf.cast(tf.clip_by_value(levels, 0, COLOR_LEVELS - 1), tf.int32)
        places = [COLOR_LEVELS**power for power in reversed(range(self.channels))]
        return tf.reduce_sum(levels * tf.constant(places, tf.int32), -1)


def patches_of(model, objective):
    """The `Patches` of a model that an objective can hide.

    Args:
        model: A model of this package.
        objective: Its name, for the error.

    Raises:
        ValueError: For a model that is no plain Vision Transformer.
    """
    is_plain = isinstance(model, VisionTransformer)
    if not is_plain or isinstance(model, HybridVisionTransformer):
        raise ValueError(
            f"the objective {objective!r} needs a model that cuts the image itself into patches, "
            f"such as ViT-B/16. Received: {type(model).__name__}"
        )
    config = model.config
    check_fixed_size(config, f"the objective {objective!r}")
    return Patches(config.patch_size, config.grid, config.in_channels, model.preprocessing)


def share_of(number, ratio, name):
    """So many of a number, rounded down.

    Raises:
        ValueError: If that is none or all of them.

    >>> share_of(49, 0.5, "ratio")
    24
    """
    share = math.floor(number * ratio + 1e-9)
    if not 0 < share < number:
        raise ValueError(
            f"`{name}` must leave some patches and hide some. Received: {ratio:g} of {number}"
        )
    return share


def corruption(order, kind, other, number, proportions):
    """Which patches are corrupted, and what stands in the place of each patch.

    Args:
        order: (N,) numbers; the patches with the least are corrupted.
        kind: (N,) numbers in [0, 1).
        other: Integers (N,), for each patch another one.
        number: M, how many are corrupted.
        proportions: Shares of a mask, of another patch and of the patch itself.

    Returns:
        `(corrupted, sources)`: int32 (M,) that rise, and int32 (N,), for each patch the number of
        the one in its place, N for the mask.
    """
    num_patches = tf.shape(order)[0]
    own = tf.range(num_patches)
    corrupted = tf.sort(tf.argsort(order, stable=True)[:number])
    masked, swapped = proportions[0], proportions[0] + proportions[1]
    chosen = tf.where(kind < swapped, tf.cast(other, tf.int32), own)
    chosen = tf.where(kind < masked, num_patches, chosen)
    sources = tf.tensor_scatter_nd_update(own, corrupted[:, None], tf.gather(chosen, corrupted))
    return corrupted, sources


def draw_corruption(num_patches, seed, number, proportions):
    """`corruption` from random numbers: another patch is any but the patch itself, all alike.

    Args:
        num_patches: N, at least 2.
        seed: int32 (2,).
        number, proportions: As in `corruption`.
    """

    def key(place):
        return tf.random.fold_in(seed, place)

    order = tf.random.stateless_uniform((num_patches,), key(0))
    kind = tf.random.stateless_uniform((num_patches,), key(1))
    step = tf.random.stateless_uniform((num_patches,), key(2), 1, num_patches, tf.int32)
    other = (tf.range(num_patches) + step) % num_patches
    return corruption(order, kind, other, number, proportions)


def left_out(noise, num_visible):
    """Which patches a masked autoencoder sees.

    Args:
        noise: (N,) numbers; the patches with the least are seen, in the order of their numbers.
        num_visible: V.

    Returns:
        `(visible, masked, sources)`: int32 (V,), int32 (N - V,), and int32 (N,), for each patch its
        place among the visible ones, V for those that are left out.
    """
    order = tf.argsort(noise, stable=True)
    places = tf.argsort(order, stable=True)
    return order[:num_visible], order[num_visible:], tf.minimum(places, num_visible)
