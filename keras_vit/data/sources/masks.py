"""Images with a class for each pixel: where they are, and how a mask is read.

Shapes: `H W` pixels, `K` classes.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_vit.data.images import headers
from keras_vit.data.images.image_problems import MAX_PIXELS
from keras_vit.data.images.windows import IGNORE
from keras_vit.data.sources.files import file_version
from keras_vit.data.sources.protocol import Source, digest, keep

# What a decoder makes of the largest value of a grey PNG, by its bits.
_GREY_SCALES = {1: 255, 2: 85, 4: 17, 8: 1}
_GREY, _GREY_ALPHA = 0, 4  # of a PNG's header


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFormat:
    """How the pixels of a PNG become classes.

    Args:
        num_classes: K.
        first: The value of class 0; what is below is ignored, as 255 is.
        colors: The color of each class, (red, green, blue) in [0, 255]; None where pixels are grey
            and their values are classes.
        ignored_colors: Colors that count nowhere.
    """

    num_classes: int
    first: int = 0
    colors: tuple[tuple[int, int, int], ...] | None = None
    ignored_colors: tuple[tuple[int, int, int], ...] = ()


def decode_mask(encoded, mask_format, name, image_size=None):
    """Reads a mask.

    Args:
        encoded: Scalar string tensor, any bytes.
        mask_format: `MaskFormat`.
        name: Scalar string or string tensor that an error begins with.
        image_size: int32 (2,), height and width of the mask's image; None checks nothing.

    Returns:
        uint8 (H, W) in [0, K), or 255 where a pixel is ignored.

    Raises:
        tf.errors.InvalidArgumentError: For data that is no PNG of 8 bits or less, a mask of another
            size than its image, or a pixel that is of no class.
    """

    def check(good, *message):
        message = tf.strings.join([name, ": ", *message])
        return tf.debugging.Assert(good, [message])

    encoded = tf.ensure_shape(encoded, ())
    depth, kind = tf.unstack(headers.numbers(encoded, 24, 2), num=2)
    size, fault = headers.png(encoded)
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    fits = (tf.reduce_min(size) > 0) & (num_pixels <= MAX_PIXELS)
    is_png = tf.equal(fault, 0)
    checks = [
        check(is_png, "a mask must be a PNG, of one picture and with a whole header"),
        check(fits | ~is_png, f"a mask must have 1 to {MAX_PIXELS} pixels"),
        check((depth <= 8) | ~is_png, "a mask must have at most 8 bits a channel, it has more"),
    ]
    if mask_format.colors is None:
        is_grey = (kind == _GREY) | (kind == _GREY_ALPHA)
        rule = "a mask of colors needs a table of them: classes.json or classes.txt with a color "
        checks.append(check(is_grey | ~is_png, rule, "for each class beside the images"))
    with tf.control_dependencies(checks):
        pixels = _decode_png(tf.identity(encoded))
    size = tf.shape(pixels)[:2]
    with tf.control_dependencies([check(size[0] > 0, "a damaged or truncated PNG")]):
        pixels = tf.identity(pixels)
    checks = []
    if image_size is not None:
        parts = (size[0], " x ", size[1], " pixels, its image ", image_size[0], " x ")
        texts = [part if isinstance(part, str) else _text(part) for part in (*parts, image_size[1])]
        checks.append(check(tf.reduce_all(size == image_size), "the mask has ", *texts))
    find = _classes_of_values if mask_format.colors is None else _classes_of_colors
    classes, is_known, value = find(pixels, depth, mask_format)
    known = tf.constant(f" is none of the {mask_format.num_classes} classes")
    checks.append(check(is_known, value, known))
    with tf.control_dependencies(checks):
        return tf.identity(classes)


def _decode_png(encoded):
    """uint8 (H, W, 3), without a pixel where the decoder refuses the data."""
    # A data set of one element is the one place where a graph can catch an error.
    decoded = tf.data.Dataset.from_tensors(encoded).map(
        lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=3), (None, None, 3))
    )
    refused = tf.data.Dataset.from_tensors(tf.zeros((0, 0, 3), tf.uint8))
    return decoded.ignore_errors().concatenate(refused).take(1).get_single_element()


def _text(number):
    return tf.strings.as_string(number)


def _classes_of_values(pixels, depth, mask_format):
    """`(classes, whether all are known, the first that is not)`."""
    scale = sum(tf.where(tf.equal(depth, bits), value, 0) for bits, value in _GREY_SCALES.items())
    values = tf.cast(pixels[..., 0], tf.int32) // tf.maximum(scale, 1)
    classes = values - mask_format.first
    is_ignored = (values == IGNORE) | (classes < 0)
    wrong = ~is_ignored & (classes >= mask_format.num_classes)
    worst = tf.reduce_max(tf.where(wrong, values, -1))
    classes = tf.cast(tf.where(is_ignored, IGNORE, classes), tf.uint8)
    return classes, worst < 0, tf.strings.join(["the value ", _text(worst)])


def _classes_of_colors(pixels, depth, mask_format):
    """`(classes, whether all are known, the first that is not)`."""
    del depth
    colors = np.array([*mask_format.colors, *mask_format.ignored_colors], np.int32)
    codes = colors @ [1 << 16, 1 << 8, 1]
    classes = np.full(len(codes), IGNORE, np.uint8)
    classes[: mask_format.num_classes] = range(mask_format.num_classes)
    order = np.argsort(codes)
    codes, classes = tf.constant(codes[order], tf.int32), tf.constant(classes[order])
    code = tf.reduce_sum(tf.cast(pixels, tf.int32) * [1 << 16, 1 << 8, 1], -1)
    place = tf.minimum(tf.searchsorted(codes, tf.reshape(code, (-1,))), len(order) - 1)
    place = tf.reshape(place, tf.shape(code))
    wrong = tf.gather(codes, place) != code
    worst = tf.reduce_max(tf.where(wrong, code, -1))
    parts = [
        _text(tf.bitwise.bitwise_and(tf.bitwise.right_shift(worst, k), 255)) for k in (16, 8, 0)
    ]
    value = tf.strings.join(["the color (", parts[0], ", ", parts[1], ", ", parts[2], ")"])
    return tf.gather(classes, place), worst < 0, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSplit:
    """One split: paths, or where the data are in memory encoded images and masks.

    Args:
        images: Paths, or bytes.
        masks: As many.
        is_path: Which of both.
    """

    images: tuple
    masks: tuple
    is_path: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSource(Source):
    """Images with masks.

    Args:
        splits: `MaskSplit` by name.
        mask_format: `MaskFormat`.
    """

    splits: Mapping[str, MaskSplit]
    mask_format: MaskFormat

    def num_examples(self, split):
        """Returns the number of images."""
        return len(self.splits[split].images)

    def labels(self, split):
        """Returns zeros (n,): an image as a whole is of no class."""
        return np.zeros(self.num_examples(split), np.int64)

    def paths(self, split):
        """Returns the paths of the images, or None where they are in memory."""
        return self.splits[split].images if self.splits[split].is_path else None

    def image_dtype(self, split):
        """Returns "string": images are encoded."""
        return "string"

    def num_bytes(self, split):
        """Returns 0: everything is at hand."""
        return 0

    def stream(self, split):
        """Returns a `tf.data.Dataset` of (encoded image, 0)."""
        part = self.splits[split]
        images = [os.fsencode(image) if part.is_path else image for image in part.images]
        stream = tf.data.Dataset.from_tensor_slices((images, self.labels(split)))
        if not part.is_path:
            return stream
        return stream.map(lambda path, label: (tf.io.read_file(path), label))

    def without(self, excluded):
        """Returns the source without some images."""
        splits = dict(self.splits)
        for split, indices in excluded.items():
            part = splits[split]
            kept = np.flatnonzero(keep(len(part.images), indices))
            splits[split] = dataclasses.replace(
                part,
                images=tuple(part.images[k] for k in kept),
                masks=tuple(part.masks[k] for k in kept),
            )
        return dataclasses.replace(self, splits=splits)

    def fingerprint(self, split):
        """Returns a digest of names, sizes and times of all files, or of the bytes in memory."""
        part = self.splits[split]
        if not part.is_path:
            return digest(self.mask_format, *map(digest, part.images), *map(digest, part.masks))
        both = (*part.images, *part.masks)
        root = os.path.commonpath(map(os.path.dirname, both)) if both else ""
        names = [os.path.relpath(path, root) for path in both]
        return digest(self.mask_format, names, [file_version(path) for path in both])
