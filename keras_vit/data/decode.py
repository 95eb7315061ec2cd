"""JPEG and PNG bytes -> RGB pixels, by graph operations that survive any input.

TensorFlow's own decoders read more formats than have been checked against another decoder, allocate
whatever a header asks for, and abort or stall on some inputs.  Here a decoder sees only data that
passed an allow-list on the magic bytes and limits on bytes, pixels and scans.  Everything works
eagerly, in tf.data and in a SavedModel that is loaded with TensorFlow alone.

A JPEG can be decoded through a window: rows below it are not read, and of the others only the
window's part is turned into pixels.  The pixels are those that lie there in the whole image.

EXIF orientation is ignored, and an alpha channel is dropped, not blended, as in the official code.
"""

import tensorflow as tf

from keras_vit.data.image_problems import (
    JPEG_MAGIC,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    OTHER_FORMATS,
    PNG_HEADER_BYTES,
    PNG_MAGIC,
)
from keras_vit.data.image_problems import explain_image_problem as explain_image_problem
from keras_vit.data.image_problems import looks_like_image as looks_like_image

# The animation control chunk (8 bytes long) follows IHDR, with little in between.
_ACTL_CHUNK = b"\x00\x00\x00\x08acTL"
_ACTL_SEARCH_BYTES = 4096
_REFUSED = "the decoder refused its data: damaged or truncated"
# Chroma is interpolated from both neighbours, which a decoder that crops does not have at the edge.
_MARGIN = 2

# One black pixel.  A decoder gets it in place of data that it must not see, rather than a branch
# around the decoder: constant folding may run an operation whose result is never used.
BLANK_JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c"
    "1912130f141d1a1f1e1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc000"
    "0b080001000101011100ffc40014000100000000000000000000000000000008ffc4001410010000000000000000"
    "0000000000000000ffda0008010100003f003fbfffd9"
)
_SCAN_MARKER = b"\xff\xda"
_HEX = [f"{byte:02x}" for byte in range(256)]


def _starts_with(encoded, prefix):
    return tf.equal(tf.strings.substr(encoded, 0, len(prefix)), prefix)


def _num_scans(jpeg, max_scans):
    """At most max_scans + 1.  0xFF is escaped in scans: no image data look like their marker."""
    # One pass over the bytes, whose cost is a tenth of that of comparing them in a tensor.
    parts = tf.raw_ops.StringSplitV2(input=[jpeg], sep=_SCAN_MARKER, maxsplit=max_scans + 1)
    return tf.cast(parts.shape[1] - 1, tf.int32)


def _png_header(encoded):
    """Returns int64 (2,), height and width, and int32, the number of images: 0 without a header."""
    start = tf.strings.substr(encoded, 0, _ACTL_SEARCH_BYTES)
    has_header = tf.logical_and(
        tf.equal(tf.strings.substr(start, 0, 16), PNG_MAGIC + b"\x00\x00\x00\x0dIHDR"),
        tf.strings.length(encoded) >= PNG_HEADER_BYTES,
    )
    padded = tf.strings.join([tf.strings.substr(start, 0, 24), b"\x00" * 24])
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 16, 8), tf.uint8), tf.int64)
    places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    size = tf.reduce_sum(tf.reshape(data, (2, 4)) * places, axis=1)  # (width, height)
    without_actl = tf.strings.regex_replace(
        start, "".join(f"\\x{byte:02x}" for byte in _ACTL_CHUNK), "", replace_global=False
    )
    num_images = tf.where(tf.equal(without_actl, start), 1, 2)
    return size[::-1], tf.where(has_header, num_images, 0)


def _fits(size, max_pixels):
    """Whether an int64 (height, width) has pixels, and not more than the limit."""
    # The product of two sizes of a PNG may overflow as an integer.
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    return tf.logical_and(tf.reduce_min(size) > 0, num_pixels <= max_pixels)


class _Catching:
    """Decodes what it should not see as one black pixel, and what fails as one of size (-1, -1)."""

    @staticmethod
    def shorten(is_short, encoded):
        return tf.where(is_short, encoded, BLANK_JPEG)

    guard = shorten

    @staticmethod
    def run(decode, encoded):
        # A data set of one element is the one place where a graph can catch an error.  It is also
        # what keeps the decoders' messages, which may hold raw bytes of the input, from Python.
        decoded = tf.data.Dataset.from_tensors(encoded).map(decode).ignore_errors()
        refused = tf.data.Dataset.from_tensors(
            (tf.zeros((1, 1, 3), tf.uint8), tf.constant([-1, -1], tf.int64))
        )
        return decoded.concatenate(refused).take(1).get_single_element()


class _Raising:
    """Raises where `_Catching` goes on, without a name: in less time."""

    @staticmethod
    def shorten(is_short, encoded):
        return encoded  # what is too long is refused with the rest, before it is decoded

    @staticmethod
    def guard(is_safe, encoded):
        refused = tf.raw_ops.Assert(condition=is_safe, data=["an image is not decoded"])
        with tf.control_dependencies([refused]):
            return tf.identity(encoded)

    @staticmethod
    def run(decode, encoded):
        return decode(encoded)


def _decode_whole(encoded):
    # The operation of JPEG decodes PNG as well (16-bit ones to their high byte), and the slow
    # transform is the one that equals libjpeg's and Pillow's pixels.
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, (None, None, 3))


def _cut(image, window):
    top, left, height, width = tf.unstack(window, num=4)
    return tf.ensure_shape(image[top : top + height, left : left + width], (None, None, 3))


def _decode_through(jpeg, window, size):
    top, left, height, width = tf.unstack(window, num=4)
    first = tf.maximum(left - _MARGIN, 0)
    last = tf.minimum(left + width + _MARGIN, size[1])
    part = tf.io.decode_and_crop_jpeg(
        jpeg, [top, first, height, last - first], channels=3, dct_method="INTEGER_ACCURATE"
    )
    return _cut(part, tf.stack([0, left - first, height, width]))


def _decode_jpeg(encoded, max_pixels, find_window, mode):
    """Returns `(image, size)`: size is (-1, -1) for what the decoder refuses."""

    def decode(jpeg):
        size = tf.cast(tf.io.extract_jpeg_shape(jpeg)[:2], tf.int64)
        fits = _fits(size, max_pixels)
        jpeg = mode.guard(fits, jpeg)
        if find_window is None:
            return _decode_whole(jpeg), size
        safe_size = tf.cast(tf.where(fits, size, 1), tf.int32)
        return _decode_through(jpeg, find_window(safe_size), safe_size), size

    return mode.run(decode, encoded)


def _decode_png(encoded, size, find_window, mode):
    def decode(png):
        image = _decode_whole(png)
        if find_window is not None:
            image = _cut(image, find_window(tf.shape(image)[:2]))
        return image, size

    return mode.run(decode, encoded)


def _explain(encoded, is_jpeg, size, num_parts, max_pixels, max_bytes, max_scans):
    """The first rule that data breaks, in printable characters."""

    def number(value):
        return tf.strings.as_string(value)

    num_bytes = tf.strings.length(encoded)
    first_bytes = tf.io.decode_raw(tf.strings.substr(encoded, 0, 8), tf.uint8)
    first_bytes = tf.strings.reduce_join(tf.gather(_HEX, tf.cast(first_bytes, tf.int32)))
    no_header = "a PNG must begin with a whole header (IHDR)"
    rules = [
        (num_bytes < 1, ["not a JPEG or PNG image, it is empty"]),
        (
            num_bytes > max_bytes,
            [f"an image may have at most {max_bytes} bytes, it has ", number(num_bytes)],
        ),
        *(
            (_starts_with(encoded, prefix), [f"not a JPEG or PNG image, {what}"])
            for prefix, what in OTHER_FORMATS
        ),
        (
            tf.logical_not(tf.logical_or(is_jpeg, _starts_with(encoded, PNG_MAGIC))),
            ["not a JPEG or PNG image, starts with ", first_bytes],
        ),
        (
            num_parts < 1,
            [tf.where(is_jpeg, "truncated: the JPEG ends before its pixels", no_header)],
        ),
        (
            num_parts > tf.where(is_jpeg, max_scans, 1),
            [
                tf.where(
                    is_jpeg,
                    f"a JPEG may have at most {max_scans} scans, it has more",
                    "animated PNG is not decoded",
                )
            ],
        ),
        (tf.reduce_any(size == 0), ["its header says that it has no pixels"]),
        (
            tf.logical_not(tf.logical_or(_fits(size, max_pixels), size[0] < 0)),
            [
                f"an image may have at most {max_pixels} pixels, its header says ",
                *(number(size[0]), " x ", number(size[1])),
            ],
        ),
    ]
    problem = tf.constant(_REFUSED)
    for condition, message in reversed(rules):
        problem = tf.where(condition, tf.strings.join(message), problem)
    return problem


def _decode(encoded, max_pixels, max_bytes, max_scans, find_window, mode):
    """Returns the image, and `(is_safe, is_jpeg, size, num_parts)`, which say whether it is one."""
    is_jpeg = _starts_with(encoded, JPEG_MAGIC)
    is_short = tf.strings.length(encoded) <= max_bytes

    def jpeg():
        num_scans = _num_scans(mode.shorten(is_short, encoded), max_scans)
        is_safe = tf.reduce_all([is_jpeg, is_short, num_scans > 0, num_scans <= max_scans])
        image, size = _decode_jpeg(mode.guard(is_safe, encoded), max_pixels, find_window, mode)
        return image, size, num_scans, is_safe

    def png():
        size, num_images = _png_header(encoded)
        is_png = _starts_with(encoded, PNG_MAGIC)
        is_safe = tf.reduce_all(
            [is_png, is_short, tf.equal(num_images, 1), _fits(size, max_pixels)]
        )
        image, decoded = _decode_png(mode.guard(is_safe, encoded), size, find_window, mode)
        return image, tf.where(is_safe, decoded, size), num_images, is_safe

    image, size, num_parts, is_safe = tf.cond(is_jpeg, jpeg, png)
    return tf.ensure_shape(image, (None, None, 3)), (is_safe, is_jpeg, size, num_parts)


def _try_decode(encoded, max_pixels, max_bytes, max_scans, find_window=None):
    limits = (max_pixels, max_bytes, max_scans)
    image, (is_safe, *facts) = _decode(encoded, *limits, find_window, _Catching)
    is_good = tf.logical_and(is_safe, _fits(facts[1], max_pixels))
    problem = tf.cond(is_good, lambda: tf.constant(""), lambda: _explain(encoded, *facts, *limits))
    return image, tf.ensure_shape(problem, ())


_try_decode_eagerly = tf.function(_try_decode, reduce_retracing=True)


def try_decode_image(
    encoded,
    *,
    find_window=None,
    max_pixels=MAX_PIXELS,
    max_bytes=MAX_BYTES,
    max_scans=MAX_SCANS,
):
    """Decodes JPEG or PNG data, and says so instead of raising when that cannot be done.

    Args:
        encoded: scalar string tensor, any bytes.
        find_window: None for the whole image, or a function from its size, int32 (2,), height and
            width, to the window that is decoded, int32 (4,), top, left, height and width.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        `(image, problem)`: uint8 (H, W, 3) in [0, 255], and a scalar string tensor that is empty
        where the image is good; where it is not, it says why and the image is one black pixel.
    """
    encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), ())
    limits = (max_pixels, max_bytes, max_scans)
    if find_window is None and tf.executing_eagerly():
        return _try_decode_eagerly(encoded, *limits)
    return _try_decode(encoded, *limits, find_window)


def decode_image(encoded, *, name=None, **options):
    """Decodes JPEG or PNG data to RGB pixels.

    Grey and palette images are expanded to RGB, CMYK is converted, of 16 bits the high byte stays,
    alpha is dropped.  JPEG pixels equal those of libjpeg's accurate integer transform.

    Args:
        encoded: scalar string tensor, any bytes.
        name: scalar string or string tensor that an error begins with, such as the file's path.
        **options: `find_window`, `max_pixels`, `max_bytes` and `max_scans`, as in
            `try_decode_image`.

    Returns:
        uint8 (H, W, 3) in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: for data that is empty, neither JPEG nor PNG, animated,
            above a limit, damaged or truncated.
    """
    image, problem = try_decode_image(encoded, **options)
    good = tf.equal(problem, "")
    message = problem if name is None else tf.strings.join([name, ": ", problem])
    if tf.executing_eagerly():
        if not good:
            raise tf.errors.InvalidArgumentError(None, None, message.numpy().decode())
        return image
    with tf.control_dependencies([tf.debugging.Assert(good, [message])]):
        return tf.identity(image)


def decode_image_unnamed(encoded, *, find_window=None):
    """As `decode_image`, in less time, but the error does not say what is wrong with which image.

    For the inside of a data set whose errors are caught and told by `decode_image`.

    Args:
        encoded: scalar string tensor, any bytes.
        find_window: as in `try_decode_image`.

    Returns:
        uint8 (H, W, 3) in [0, 255].

    Raises:
        tf.errors.OpError: where `decode_image` raises.
    """
    limits = (MAX_PIXELS, MAX_BYTES, MAX_SCANS)
    image, _ = _decode(encoded, *limits, find_window, _Raising)
    return image
