"""Where the heads look: distances, rollout, single blocks (section 4.5 of arXiv:2010.11929v2).

Shapes: B images, b images of one batch, h w grid, N = h w patches, T tokens (N, and those before
the patches), k heads, L blocks.

Each measure is a collector: it is shown every block of every batch once, and keeps what it needs of
it.  `keras_vit.analysis.analyze` shows them all the same pass.
"""

import numpy as np

from keras_vit.analysis.blocks import Walk, block_index, check_attention, check_images


def attention_distance(model, images, *, renormalize=False, batch_size=None):
    """Mean attention distance in pixels of each head (Figures 7 right and 11).

    sum_s A[q, s] d[q, s], averaged over the query patches q, where d is the distance between the
    centres of two patches in pixels of the image.  Row and column of the class token are dropped.
    Uniform attention over 14 x 14 patches of 16 px gives 116.5 px, attention to oneself 0.

    Args:
        model: A Vision Transformer or hybrid.
        images: (B, H, W, C), as for a call of the model.
        renormalize: Whether the rows are made to sum to 1 again without the class token; the
            authors' own code does not.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        (L, B, k) float32; the paper shows `.mean(axis=1)`.

    Raises:
        ValueError: for a model without encoder blocks, or images of another size.
    """
    walk, images = _walk(model, images, "attention distance")
    return _collect(walk, images, Distance(walk, images.shape[0], renormalize), batch_size)


def attention_rollout(model, images, *, residual=True, batch_size=None):
    """Attention rollout from the output to the input patches (Figures 6 and 14; arXiv:2005.00928).

    The heads' mean of each block, with the identity added for the residual connection and rows
    divided by their sum, multiplied from the first block up.

    Args:
        model: A Vision Transformer or hybrid.
        images: (B, H, W, C), as for a call of the model.
        residual: Whether the identity is added.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        (B, h, w) float32: the class token's row over the patches, or, without a class token, the
        mean of all rows.  The entries are shares of the input; the figures divide by the maximum.

    Raises:
        ValueError: for a model without encoder blocks, or images of another size.
    """
    walk, images = _walk(model, images, "attention rollout")
    return _collect(walk, images, Rollout(walk, images.shape[0], residual), batch_size)


def attention_map(model, images, *, block=-1, batch_size=None):
    """What each head of one block takes from the patches, seen from the class token.

    Args:
        model: A Vision Transformer or hybrid.
        images: (B, H, W, C), as for a call of the model.
        block: Index of the block; negative ones count from the last.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        (B, k, h, w) float32: the class token's row over the patches, or, without a class token, the
        mean of all rows.  A map sums to 1 less what the tokens before the patches get.

    Raises:
        ValueError: for a model without encoder blocks, a block that does not exist, or images of
            another size.
    """
    walk, images = _walk(model, images, "an attention map")
    block = block_index(model, block)
    return _collect(walk, images, BlockMap(walk, images.shape[0], block), batch_size, block)


def thresholded_attention(model, images, *, mass=0.6, block=-1, batch_size=None):
    """The smallest set of patches that gets a share of a head's attention, as DINO draws it.

    Args:
        model: A Vision Transformer or hybrid.
        images: (B, H, W, C), as for a call of the model.
        mass: Share of the attention over the patches that is kept, in (0, 1].
        block: Index of the block; negative ones count from the last.
        batch_size: Images that go through together; None chooses by memory.

    Returns:
        (B, k, h, w) booleans.

    Raises:
        ValueError: as `attention_map`, and for a share outside (0, 1].
    """
    return threshold(attention_map(model, images, block=block, batch_size=batch_size), mass)


def threshold(maps, mass):
    """Keeps the patches that make up a share of each map.

    In ascending order, kept is where the cumulated share exceeds 1 - mass.

    Args:
        maps: (..., h, w), not negative.
        mass: Share that is kept, in (0, 1].

    Returns:
        (..., h, w) booleans.

    >>> threshold(np.array([[0.1, 0.2], [0.3, 0.4]]), 0.6).tolist()
    [[False, False], [True, True]]
    """
    if not 0.0 < mass <= 1.0:
        raise ValueError(f"`mass` must be in (0, 1]. Received: {mass}")
    flat = maps.reshape(*maps.shape[:-2], -1).astype("float64")
    order = np.argsort(flat, axis=-1, kind="stable")
    values = np.take_along_axis(flat, order, axis=-1)
    shares = np.cumsum(values, axis=-1) / values.sum(axis=-1, keepdims=True)
    kept = np.zeros(flat.shape, bool)
    np.put_along_axis(kept, order, shares > 1 - mass, axis=-1)
    return kept.reshape(maps.shape)


def joint_attention(attention, *, residual=True):
    """Yields the product of the attention of all blocks so far, after each block.

    A_l <- (mean over heads + I) / row sums;  J_1 = A_1;  J_l = A_l J_{l-1}.

    Args:
        attention: Iterable over the blocks, the first one first, of (B, k, T, T) arrays whose rows
            sum to 1, such as `model.attention_weights(images)`.
        residual: Whether the identity is added.

    Yields:
        (B, T, T) float32 arrays: row q says what of the input is in token q.
    """
    joint = None
    for weights in attention:
        mean = weights.mean(axis=1)  # (B, T, T)
        if residual:
            mean = mean + np.eye(mean.shape[-1], dtype=mean.dtype)
            mean /= mean.sum(axis=-1, keepdims=True)
        joint = mean if joint is None else mean @ joint
        yield joint


def patch_distances(grid, pitch):
    """Distances between the patches of a grid.

    Args:
        grid: (h, w).
        pitch: (height, width) of a patch in pixels.

    Returns:
        (N, N) float64 in pixels, patches in reading order.

    >>> patch_distances((1, 2), (16, 8)).tolist()
    [[0.0, 8.0], [8.0, 0.0]]
    """
    rows, columns = np.indices(grid).reshape(2, -1) * np.reshape(pitch, (2, 1))
    return np.hypot(rows[:, None] - rows, columns[:, None] - columns)


class Distance:
    """Collects `attention_distance`."""

    def __init__(self, walk, num_images, renormalize=False):
        self.result = np.zeros(
            (walk.depth, num_images, walk.model.config.num_heads), "float32"
        )  # (L, B, k)
        self._first = walk.num_prefix
        self._distances = patch_distances(walk.grid, walk.pitch).astype("float32")
        self._renormalize = renormalize

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        weights = step.attention[:, :, self._first :, self._first :]  # (b, k, N, N)
        rows = (weights * self._distances).sum(axis=-1)  # (b, k, N)
        if self._renormalize:
            sums = weights.sum(axis=-1)
            rows = rows / np.where(sums == 0, 1, sums)
        self.result[step.block, step.rows] = rows.mean(axis=-1)


class Rollout:
    """Collects `attention_rollout`."""

    def __init__(self, walk, num_images, residual=True):
        self.result = np.zeros((num_images, *walk.grid), "float32")
        self._walk = walk
        self._residual = residual
        self._joint = None

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        (own,) = joint_attention([step.attention], residual=self._residual)
        self._joint = own if step.block == 0 else own @ self._joint
        if step.block == self._walk.depth - 1:
            self.result[step.rows] = over_patches(self._walk, self._joint)
            self._joint = None


class BlockMap:
    """Collects `attention_map` of one block."""

    def __init__(self, walk, num_images, block):
        heads = walk.model.config.num_heads
        self.result = np.zeros((num_images, heads, *walk.grid), "float32")
        self._walk = walk
        self._block = block

    def see(self, step):
        """Takes what it needs of a block's work on a batch."""
        if step.block == self._block:
            self.result[step.rows] = over_patches(self._walk, step.attention)


def over_patches(walk, weights):
    """(..., T, T) -> (..., h, w): what the model's answer takes from each patch.

    The class token's row; the mean of all rows where there is none, as the answer is their mean.
    """
    has_class_token = walk.model.config.class_token
    row = weights[..., 0, :] if has_class_token else weights.mean(axis=-2)
    return row[..., walk.num_prefix :].reshape(*row.shape[:-1], *walk.grid)


def _walk(model, images, what):
    check_attention(model, what)
    images = check_images(model, images)
    return Walk(model, images.shape[1:3]), images


def _collect(walk, images, collector, batch_size, last=-1):
    for step in walk.steps(images, last=last, batch_size=batch_size):
        collector.see(step)
    return collector.result
