"""Sliding windows over an image of any size: what a segmentation model sees, and its answer.

As in Segmenter (arXiv:2105.05633): the image is scaled, windows of the model's size are laid over
it, the last one of each axis ends at the border, and their logits are averaged, brought to the
image's own size bilinearly (half-pixel centres) and compared.

Everything is a TensorFlow function of one image, so that evaluation, prediction and a SavedModel
run the same operations.

Shapes: `H W` pixels of the image, `S T` of the scaled image, `h w` of a window, `n` windows, `C`
channels, `K` classes.
"""

import tensorflow as tf

from keras_vit.data.images.preprocess import as_bands, resize_problem, to_model
from keras_vit.data.images.resize import resize, short_side_size

IGNORE = 255  # the label of pixels that count nowhere
_CLASSES_AT_A_TIME = 16


def anchors(extent, window, stride):
    """Where windows begin along one axis.

    Args:
        extent: Pixels of the image, at least those of a window; integer tensor or integer.
        window: Pixels of a window.
        stride: Pixels between two windows.

    Returns:
        int32 (number,); the last window ends at the border.

    >>> anchors(1000, 768, 512).numpy().tolist()
    [0, 232]
    """
    last = tf.cast(extent, tf.int32) - window
    starts = tf.range(0, tf.maximum(last, 0), stride)
    return tf.concat([starts, [last]], 0)


def window_corners(size, window, stride):
    """Top left corners of all windows, row by row.

    Args:
        size: int32 (2,), height and width of the image, at least `window`.
        window: (height, width) in pixels.
        stride: (vertical, horizontal) in pixels.

    Returns:
        int32 (n, 2), top and left.
    """
    rows = anchors(size[0], window[0], stride[0])
    columns = anchors(size[1], window[1], stride[1])
    pairs = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), -1)
    return tf.reshape(pairs, (-1, 2))


def cut_windows(image, corners, window):
    """(S, T, C) and int32 (n, 2) -> (n, h, w, C)."""
    shape = (*window, image.shape[-1])
    spec = tf.TensorSpec(shape, image.dtype)

    def cut(corner):
        part = image[corner[0] : corner[0] + window[0], corner[1] : corner[1] + window[1]]
        return tf.ensure_shape(part, shape)

    return tf.map_fn(cut, corners, fn_output_signature=spec)


def average_windows(logits, corners, size):
    """Averages logits where windows lie over each other.

    Args:
        logits: float32 (n, h, w, K).
        corners: int32 (n, 2), of `window_corners`.
        size: int32 (2,), (S, T).

    Returns:
        float32 (S, T, K).
    """
    height, width, num_classes = logits.shape[1:]
    ones = tf.ones((height, width, 1))

    def add(index, total, count):
        begin = corners[index]
        end = size - begin - [height, width]
        paddings = [[begin[0], end[0]], [begin[1], end[1]], [0, 0]]
        return index + 1, total + tf.pad(logits[index], paddings), count + tf.pad(ones, paddings)

    zeros = tf.zeros((size[0], size[1], num_classes))
    shapes = tuple(tf.TensorShape(s) for s in ((), (None, None, num_classes), (None, None, 1)))
    _, total, count = tf.while_loop(
        lambda index, total, count: index < tf.shape(corners)[0],
        add,
        (0, zeros, zeros[..., :1]),
        shape_invariants=shapes,
        parallel_iterations=1,
    )
    return total / count


def scaled_size(size, preprocessing):
    """The size that an image is scaled to before windows are laid over it.

    Args:
        size: int32 (2,), height and width of the image.
        preprocessing: `Preprocessing`: "squash" scales to its size whatever the sides are,
            "short_side" keeps their proportion.

    Returns:
        int32 (2,).
    """
    rule = preprocessing
    to = tuple(rule.resize_to or rule.image_size)
    if rule.resize == "squash":
        return tf.constant(to, tf.int32)
    return tf.stack(short_side_size(size, to[0]))


def windows_of(image, preprocessing, stride):
    """What a segmentation model sees of an image.

    Args:
        image: uint8 (H, W, C) in [0, 255], not empty.
        preprocessing: `keras_vit.Preprocessing` of the model; its `image_size` is a window.
        stride: (vertical, horizontal), pixels between two windows.

    Returns:
        `(windows, corners, size)`: float32 (n, h, w, C) in the model's value range, zeros where a
        window reaches beyond the image; int32 (n, 2); and int32 (2,), the scaled image's size.
    """
    window = tuple(preprocessing.image_size)
    size = tf.shape(image)[:2]
    height, width = tf.unstack(tf.cast(size, tf.int64), num=2)
    problem = resize_problem(height, width, preprocessing)
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
        size = scaled_size(size, preprocessing)
    image = as_bands(image, preprocessing)
    image = resize(image, size, preprocessing.interpolation, preprocessing.antialias)
    image = to_model(image, preprocessing)
    missing = tf.maximum(tf.constant(window) - size, 0)
    image = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]])
    image = tf.ensure_shape(image, (None, None, preprocessing.channels))
    corners = window_corners(size + missing, window, stride)
    return cut_windows(image, corners, window), corners, size


def merged(logits, corners, size):
    """Averaged logits of the scaled image, without what was padded: (n, h, w, K) -> (S, T, K)."""
    padded = tf.maximum(size, logits.shape[1:3])
    return average_windows(logits, corners, padded)[: size[0], : size[1]]


def at_size(logits, size):
    """Brings logits to another size bilinearly: (S, T, K) -> (H, W, K)."""
    return tf.image.resize(logits, size, "bilinear")


def classes_at(logits, size):
    """The class of each pixel at another size, in the memory of a few classes.

    Args:
        logits: float32 (S, T, K).
        size: int32 (2,), (H, W).

    Returns:
        int32 (H, W), the first of the highest of `at_size(logits, size)`.
    """
    best = winner = None
    for first in range(0, logits.shape[-1], _CLASSES_AT_A_TIME):
        part = at_size(logits[..., first : first + _CLASSES_AT_A_TIME], size)
        highest = tf.reduce_max(part, -1)
        where = tf.argmax(part, -1, tf.int32) + first
        if best is None:
            best, winner = highest, where
        else:
            is_higher = highest > best
            best, winner = tf.where(is_higher, highest, best), tf.where(is_higher, where, winner)
    return winner
