"""JPEG, PNG, WebP, still GIF and BMP bytes -> RGB pixels, by graph operations for any input.

TensorFlow's own decoders read more formats than have been checked against another decoder, allocate
whatever a header asks for, and abort or stall on some inputs.  Here a decoder sees only data that
passed an allow-list on the magic bytes and limits on bytes, pixels, scans and frames.  Everything
works eagerly, in tf.data and in a SavedModel that is loaded with TensorFlow alone.

A JPEG can be decoded through a window: rows below it are not read, and of the others only the
window's part is turned into pixels.  The pixels are those that lie there in the whole image.  One
of more than `MAX_PIXELS` is decoded at 1/2, 1/4 or 1/8, where the caller's limit lets it pass.

An alpha channel is dropped, not blended, as in the official code, and EXIF's orientation is ignored
but where it is asked for.
"""

import tensorflow as tf

from keras_vit.data.images import headers, pixels
from keras_vit.data.images.chance import cut
from keras_vit.data.images.image_problems import (
    BMP_MAGIC,
    BRANDS,
    DARK_PNG,
    FORMATS,
    GIF_MAGIC,
    JPEG_MAGIC,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    OTHER_FORMATS,
    PNG_MAGIC,
)
from keras_vit.data.images.image_problems import explain_image_problem as explain_image_problem
from keras_vit.data.images.image_problems import looks_like_image as looks_like_image
from keras_vit.data.images.orientation import exif_orientation, turn

_REFUSED = "the decoder refused its data: damaged or truncated"
# Sizes of what is not decoded: the decoder refused, or values use 12 of 16 bits.
_IS_REFUSED, _IS_DARK = -1, -2
# A decoder of several scans holds all coefficients, up to 6 bytes for each pixel.
_MAX_PIXELS_OF_SCANS = 2**27
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
_HEX = [f"{byte:02x}" for byte in range(256)]
_JPEG, _PNG, _WEBP, _GIF, _BMP = range(5)


def _starts_with(encoded, prefix):
    return tf.equal(tf.strings.substr(encoded, 0, len(prefix)), prefix)


def _fits(size, max_pixels):
    """Whether an int64 (height, width) has pixels, and not more than the limit."""
    # The product of two sizes of a PNG may overflow as an integer.
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    return tf.logical_and(tf.reduce_min(size) > 0, num_pixels <= tf.cast(max_pixels, tf.float64))


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
            (tf.zeros((1, 1, 3), tf.uint8), tf.constant([_IS_REFUSED] * 2, tf.int64))
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


def _decode_whole(encoded, ratio=1):
    # The operation of JPEG decodes PNG as well (16-bit ones to their high byte), and the slow
    # transform is the one that equals libjpeg's and Pillow's pixels.
    image = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, (None, None, 3))


def _decode_reduced(jpeg, size):
    """At the largest of JPEG's own scales at which it has at most `MAX_PIXELS`."""
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    index = sum(tf.cast(num_pixels > MAX_PIXELS * 4**k, tf.int32) for k in range(3))
    return tf.switch_case(
        index, [lambda ratio=ratio: _decode_whole(jpeg, ratio) for ratio in (1, 2, 4, 8)]
    )


def _cut_window(image, find_window):
    return image if find_window is None else cut(image, find_window(tf.shape(image)[:2]))


def _decode_through(jpeg, window, size):
    top, left, height, width = tf.unstack(window, num=4)
    first = tf.maximum(left - _MARGIN, 0)
    last = tf.minimum(left + width + _MARGIN, size[1])
    part = tf.io.decode_and_crop_jpeg(
        jpeg, [top, first, height, last - first], channels=3, dct_method="INTEGER_ACCURATE"
    )
    return tf.ensure_shape(cut(part, tf.stack([0, left - first, height, width])), (None, None, 3))


def _decode_jpeg(encoded, limit, max_pixels, find_window, mode):
    """Returns `(image, size)`: size is (-1, -1) for what the decoder refuses."""
    is_tall = max_pixels > MAX_PIXELS  # static: whether any scale is needed

    def decode(jpeg):
        size = tf.cast(tf.io.extract_jpeg_shape(jpeg)[:2], tf.int64)
        fits = _fits(size, limit)
        jpeg = mode.guard(fits, jpeg)
        safe_size = tf.cast(tf.where(fits, size, 1), tf.int32)

        def whole():
            image = _decode_reduced(jpeg, safe_size) if is_tall else _decode_whole(jpeg)
            return _cut_window(image, find_window)

        if find_window is None:
            return whole(), size
        if not is_tall:
            return _decode_through(jpeg, find_window(safe_size), safe_size), size
        image = tf.cond(
            _fits(size, MAX_PIXELS),
            lambda: _decode_through(jpeg, find_window(safe_size), safe_size),
            whole,
        )
        return image, size

    return mode.run(decode, encoded)


def _decode_png(encoded, size, find_window, mode):
    def deep(png):
        values = tf.io.decode_png(png, channels=3, dtype=tf.uint16)
        highest = tf.reduce_max(tf.cast(values, tf.int32))
        is_dark = (highest > 0) & (highest < 4096)
        with tf.control_dependencies([] if mode is _Catching else [mode.guard(~is_dark, "")]):
            return tf.where(is_dark, tf.constant(_IS_DARK, tf.int64), size)

    def decode(png):
        is_deep = tf.equal(tf.strings.substr(png, 24, 1), b"\x10")
        found = tf.cond(is_deep, lambda: deep(png), lambda: size)
        return _cut_window(_decode_whole(png), find_window), found

    return mode.run(decode, encoded)


def _decode_by(read_pixels):
    """A function that decodes by `read_pixels(encoded, *facts of the header)`."""

    def decode_one(encoded, size, *facts_and_rest):
        *facts, find_window, mode = facts_and_rest

        def decode(data):
            image = tf.ensure_shape(read_pixels(data, *facts), (None, None, 3))
            return _cut_window(image, find_window), size

        return mode.run(decode, encoded)

    return decode_one


def _is_other(encoded):
    """Pairs of (whether data is of a format that is not decoded, what it is)."""
    brand = tf.strings.substr(encoded, tf.minimum(4, tf.strings.length(encoded)), 8)
    return [
        *((_starts_with(encoded, prefix), what) for prefix, what in OTHER_FORMATS),
        *((_starts_with(brand, prefix), what) for prefix, what in BRANDS),
    ]


def _explain(encoded, kind, size, fault, max_pixels, max_bytes, max_scans):
    """The first rule that data breaks, in printable characters."""

    def number(value):
        return tf.strings.as_string(value)

    num_bytes = tf.strings.length(encoded)
    first_bytes = tf.io.decode_raw(tf.strings.substr(encoded, 0, 8), tf.uint8)
    first_bytes = tf.strings.reduce_join(tf.gather(_HEX, tf.cast(first_bytes, tf.int32)))
    faults = [text.format(max_scans=max_scans) for text in headers.FAULTS]
    limit = tf.where(kind == _JPEG, max_pixels, min(max_pixels, MAX_PIXELS))
    rules = [
        (num_bytes < 1, [f"not a {FORMATS} image, it is empty"]),
        (
            num_bytes > max_bytes,
            [f"an image may have at most {max_bytes} bytes, it has ", number(num_bytes)],
        ),
        *((is_it, [f"not a {FORMATS} image, {what}"]) for is_it, what in _is_other(encoded)),
        (kind < 0, [f"not a {FORMATS} image, starts with ", first_bytes]),
        (fault > 0, [tf.gather(faults, fault)]),
        (tf.reduce_any(size == 0), ["its header says that it has no pixels"]),
        (tf.reduce_all(size == _IS_DARK), [DARK_PNG]),
        (
            tf.logical_not(tf.logical_or(_fits(size, limit), size[0] < 0)),
            [
                *("an image may have at most ", number(limit), " pixels, its header says "),
                *(number(size[0]), " x ", number(size[1])),
            ],
        ),
        (
            tf.logical_not(tf.logical_or(_fits(size, _MAX_PIXELS_OF_SCANS), size[0] < 0)),
            [f"a JPEG of several scans may have at most {_MAX_PIXELS_OF_SCANS} pixels"],
        ),
    ]
    problem = tf.constant(_REFUSED)
    for condition, message in reversed(rules):
        problem = tf.where(condition, tf.strings.join(message), problem)
    return problem


def _kind(encoded):
    """Which of the formats it is by its first bytes, int32, or -1."""
    is_webp = tf.equal(
        tf.strings.substr(encoded, tf.minimum(8, tf.strings.length(encoded)), 4), b"WEBP"
    )
    kind = tf.constant(-1)
    for number, is_it in (
        (_JPEG, _starts_with(encoded, JPEG_MAGIC)),
        (_PNG, _starts_with(encoded, PNG_MAGIC)),
        (_WEBP, is_webp & _starts_with(encoded, b"RIFF")),
        (_GIF, _starts_with(encoded, GIF_MAGIC)),
        (_BMP, _starts_with(encoded, BMP_MAGIC)),
    ):
        kind = tf.where(is_it, number, kind)
    return kind


def _decode(encoded, max_pixels, max_bytes, max_scans, orientation, find_window, mode):
    """Returns the image, and `(is_safe, kind, size, fault)`, which say whether it is one."""
    is_short = tf.strings.length(encoded) <= max_bytes
    kind = tf.where(is_short, _kind(encoded), -1)
    window = None if orientation else find_window

    def jpeg():
        fault, num_scans = headers.jpeg_fault(mode.shorten(is_short, encoded), max_scans)
        is_safe = tf.reduce_all([tf.equal(kind, _JPEG), tf.equal(fault, 0)])
        safe = mode.guard(is_safe, encoded)
        limit = tf.where(num_scans > 1, min(max_pixels, _MAX_PIXELS_OF_SCANS), max_pixels)
        image, size = _decode_jpeg(safe, limit, max_pixels, window, mode)
        return image, size, fault, is_safe & _fits(size, limit)

    def other(number, read, decode):
        def branch():
            size, fault, *facts = read(mode.shorten(is_short, encoded))
            fits = _fits(size, min(max_pixels, MAX_PIXELS))
            is_safe = tf.reduce_all([tf.equal(kind, number), tf.equal(fault, 0), fits])
            safe = mode.guard(is_safe, encoded)
            # What is not safe is one black pixel in another format: it needs another decoder.
            image, decoded = tf.cond(
                is_safe,
                lambda: decode(safe, size, *facts, window, mode),
                lambda: (tf.zeros((1, 1, 3), tf.uint8), size),
            )
            return image, decoded, fault, is_safe

        return branch

    image, size, fault, is_safe = tf.switch_case(
        tf.maximum(kind, 0),
        [
            jpeg,
            other(_PNG, headers.png, _decode_png),
            other(_WEBP, headers.webp, _decode_by(pixels.webp)),
            other(_GIF, headers.gif, _decode_by(pixels.gif)),
            other(_BMP, headers.bmp, _decode_by(pixels.bmp)),
        ],
    )
    if orientation:
        image = _cut_window(turn(image, exif_orientation(encoded, kind)), find_window)
    return tf.ensure_shape(image, (None, None, 3)), (is_safe, kind, size, fault)


def _try_decode(encoded, max_pixels, max_bytes, max_scans, orientation=None, find_window=None):
    limits = (max_pixels, max_bytes, max_scans)
    image, (is_safe, *facts) = _decode(encoded, *limits, orientation, find_window, _Catching)
    is_good = tf.logical_and(is_safe, _fits(facts[1], max_pixels))
    problem = tf.cond(is_good, lambda: tf.constant(""), lambda: _explain(encoded, *facts, *limits))
    image = tf.cond(is_good, lambda: image, lambda: tf.zeros_like(image[:1, :1]))
    return image, tf.ensure_shape(problem, ())


# Traced once for all data sets of a process.
_try_decode_traced = tf.function(_try_decode, reduce_retracing=True)
_decode_traced = tf.function(_decode, reduce_retracing=True)


def try_decode_image(
    encoded,
    *,
    find_window=None,
    max_pixels=MAX_PIXELS,
    max_bytes=MAX_BYTES,
    max_scans=MAX_SCANS,
    orientation=None,
):
    """Decodes JPEG, PNG, WebP, GIF or BMP data, or says why that cannot be done.

    Args:
        encoded: scalar string tensor, any bytes.
        find_window: None for the whole image, or a function from its size, int32 (2,), height and
            width, to the window that is decoded, int32 (4,), top, left, height and width.
        max_pixels: the largest height x width that is decoded; above `MAX_PIXELS` a JPEG is decoded
            at 1/2, 1/4 or 1/8, and nothing else is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.
        orientation: "exif" turns the image as its EXIF tag says, before the window is found; None
            leaves it as it is stored.

    Returns:
        `(image, problem)`: uint8 (H, W, 3) in [0, 255], and a scalar string tensor that is empty
        where the image is good; where it is not, it says why and the image is one black pixel.
    """
    encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), ())
    rest = (max_pixels, max_bytes, max_scans, orientation, find_window)
    return (_try_decode if find_window else _try_decode_traced)(encoded, *rest)


def decode_image(encoded, *, name=None, **options):
    """Decodes JPEG, PNG, WebP, GIF or BMP data to RGB pixels.

    Grey and palette images are expanded to RGB, CMYK is converted, of 16 bits the high byte stays,
    alpha is dropped.  JPEG pixels equal those of libjpeg's accurate integer transform.

    Args:
        encoded: scalar string tensor, any bytes.
        name: scalar string or string tensor that an error begins with, such as the file's path.
        **options: `find_window`, `max_pixels`, `max_bytes`, `max_scans` and `orientation`, as in
            `try_decode_image`.

    Returns:
        uint8 (H, W, 3) in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: for data that is empty, of another format, animated, above
            a limit, damaged or truncated.
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


def decode_image_unnamed(
    encoded, *, find_window=None, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, orientation=None
):
    """As `decode_image`, in less time, but the error does not say what is wrong with which image.

    For the inside of a data set whose errors are caught and told by `decode_image`.

    Args:
        encoded: scalar string tensor, any bytes.
        find_window, max_pixels, max_bytes, orientation: as in `try_decode_image`.

    Returns:
        uint8 (H, W, 3) in [0, 255].

    Raises:
        tf.errors.OpError: where `decode_image` raises.
    """
    rest = (max_pixels, max_bytes, MAX_SCANS, orientation, find_window, _Raising)
    return (_decode if find_window else _decode_traced)(encoded, *rest)[0]
