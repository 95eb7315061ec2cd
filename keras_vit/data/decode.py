"""JPEG and PNG bytes -> RGB pixels, by graph operations that survive any input.

TensorFlow's own decoders read more formats than have been checked against another decoder, allocate
whatever a header asks for, and abort or stall on some inputs.  Here a decoder sees only data that
passed an allow-list on the magic bytes and limits on bytes, pixels and scans.  Everything works
eagerly, in tf.data and in a SavedModel that is loaded with TensorFlow alone.

EXIF orientation is ignored, and an alpha channel is dropped, not blended, as in the official code.
"""

import struct
import zlib

import tensorflow as tf

MAX_BYTES = 2**25
MAX_PIXELS = 2**25
# libjpeg-turbo advises a limit on scans; encoders write about ten.
MAX_SCANS = 100

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Signature, then the length, type, 13 bytes of data and CRC of IHDR.
_PNG_HEADER_BYTES = 8 + 4 + 4 + 13 + 4
# The animation control chunk (8 bytes long) follows IHDR, with little in between.
_ACTL_CHUNK = b"\x00\x00\x00\x08acTL"
_ACTL_SEARCH_BYTES = 4096

# What data that is neither JPEG nor PNG usually is, by its first bytes.
_OTHER_FORMATS = (
    (b"version https://git-lfs", "looks like a git-lfs pointer, run `git lfs pull`"),
    (b"<", "looks like HTML or XML"),
    (b"\xff\x0a", "JPEG XL is not decoded"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL is not decoded"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000 is not decoded"),
    (b"BM", "BMP is not decoded"),
    (b"GIF8", "GIF is not decoded"),
    (b"RIFF", "WebP is not decoded"),
    (b"II*\x00", "TIFF is not decoded"),
    (b"MM\x00*", "TIFF is not decoded"),
)
_REFUSED = "the decoder refused its data: damaged or truncated"

# One black pixel.  A decoder gets it in place of data that it must not see, rather than a branch
# around the decoder: constant folding may run an operation whose result is never used.
_BLANK_JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c"
    "1912130f141d1a1f1e1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc000"
    "0b080001000101011100ffc40014000100000000000000000000000000000008ffc4001410010000000000000000"
    "0000000000000000ffda0008010100003f003fbfffd9"
)
_HEX = [f"{byte:02x}" for byte in range(256)]


def _starts_with(encoded, prefix):
    return tf.equal(tf.strings.substr(encoded, 0, len(prefix)), prefix)


def _jpeg_header(encoded):
    """Returns int64 (height, width, number of scans); sizes of 1 where there is no scan.

    0xFF is escaped inside scans, so that a marker that begins one is never image data.
    """
    data = tf.io.decode_raw(encoded, tf.uint8)
    starts = tf.logical_and(data[:-1] == 0xFF, data[1:] == 0xDA)
    num_scans = tf.reduce_sum(tf.cast(starts, tf.int32))
    shape = tf.io.extract_jpeg_shape(tf.where(num_scans > 0, encoded, _BLANK_JPEG))
    return tf.cast(shape[0], tf.int64), tf.cast(shape[1], tf.int64), tf.cast(num_scans, tf.int64)


def _png_header(encoded):
    """Returns int64 (height, width, number of images); 0 images without a whole header."""
    start = tf.strings.substr(encoded, 0, _ACTL_SEARCH_BYTES)
    has_header = tf.logical_and(
        tf.equal(tf.strings.substr(start, 0, 16), _PNG_MAGIC + b"\x00\x00\x00\x0dIHDR"),
        tf.strings.length(encoded) >= _PNG_HEADER_BYTES,
    )
    padded = tf.strings.join([tf.strings.substr(start, 0, 24), b"\x00" * 24])
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 16, 8), tf.uint8), tf.int64)
    places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    size = tf.reduce_sum(tf.reshape(data, (2, 4)) * places, axis=1)  # (width, height)
    without_actl = tf.strings.regex_replace(
        start, "".join(f"\\x{byte:02x}" for byte in _ACTL_CHUNK), "", replace_global=False
    )
    num_images = tf.where(tf.equal(without_actl, start), tf.constant(1, tf.int64), 2)
    return size[1], size[0], tf.where(has_header, num_images, 0)


def header_problem(encoded, *, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, max_scans=MAX_SCANS):
    """Says why image data must not reach a decoder, from its headers alone.

    Args:
        encoded: scalar string tensor, any bytes.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        Scalar string tensor: empty for a JPEG or PNG within the limits, else the rule that it
        breaks, in printable characters.

    Raises:
        tf.errors.InvalidArgumentError: for a JPEG whose header cannot be parsed.
    """
    num_bytes = tf.strings.length(encoded)
    is_jpeg = _starts_with(encoded, _JPEG_MAGIC)
    is_png = _starts_with(encoded, _PNG_MAGIC)
    fits = num_bytes <= max_bytes
    read_as_jpeg = tf.logical_and(is_jpeg, fits)
    height, width, num_parts = tf.cond(
        read_as_jpeg,
        lambda: _jpeg_header(tf.where(read_as_jpeg, encoded, _BLANK_JPEG)),
        lambda: _png_header(encoded),
    )
    has_pixels = tf.logical_and(height > 0, width > 0)
    # A division, because the product of two sizes of a PNG may overflow.
    is_small = height <= max_pixels // tf.maximum(width, 1)
    most_parts = tf.where(is_jpeg, tf.constant(max_scans, tf.int64), 1)
    is_good = tf.reduce_all(
        [
            *(fits, tf.logical_or(is_jpeg, is_png), has_pixels, is_small),
            *(num_parts > 0, num_parts <= most_parts),
        ]
    )

    def explain():
        def number(value):
            return tf.strings.as_string(value)

        first_bytes = tf.io.decode_raw(tf.strings.substr(encoded, 0, 8), tf.uint8)
        first_bytes = tf.strings.reduce_join(tf.gather(_HEX, tf.cast(first_bytes, tf.int32)))
        rules = [
            (num_bytes < 1, ["not a JPEG or PNG image, it is empty"]),
            (
                tf.logical_not(fits),
                [f"an image may have at most {max_bytes} bytes, it has ", number(num_bytes)],
            ),
            *(
                (_starts_with(encoded, prefix), [f"not a JPEG or PNG image, {what}"])
                for prefix, what in _OTHER_FORMATS
            ),
            (
                tf.logical_not(tf.logical_or(is_jpeg, is_png)),
                ["not a JPEG or PNG image, starts with ", first_bytes],
            ),
            (
                num_parts < 1,
                [
                    tf.where(
                        is_jpeg,
                        "truncated: the JPEG ends before its pixels",
                        "a PNG must begin with a whole header (IHDR)",
                    )
                ],
            ),
            (tf.logical_not(has_pixels), ["its header says that it has no pixels"]),
            (
                tf.logical_not(is_small),
                [
                    f"an image may have at most {max_pixels} pixels, its header says ",
                    *(number(height), " x ", number(width)),
                ],
            ),
            (is_png, ["animated PNG is not decoded"]),
        ]
        problem = tf.strings.join(
            [f"a JPEG may have at most {max_scans} scans, it has ", number(num_parts)]
        )
        for condition, message in reversed(rules):
            problem = tf.where(condition, tf.strings.join(message), problem)
        return problem

    return tf.cond(is_good, lambda: tf.constant(""), explain)


@tf.function(reduce_retracing=True)
def _try_decode(encoded, max_pixels, max_bytes, max_scans):
    def decode(encoded):
        problem = header_problem(
            encoded, max_pixels=max_pixels, max_bytes=max_bytes, max_scans=max_scans
        )
        accepted = tf.where(tf.equal(problem, ""), encoded, _BLANK_JPEG)
        # The operation of JPEG decodes PNG as well (16-bit ones to their high byte), and the slow
        # transform is the one that equals libjpeg's and Pillow's pixels.
        image = tf.io.decode_jpeg(accepted, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(image, (None, None, 3)), problem

    # A data set of one element is the one place where a graph can catch an error.  It is also what
    # keeps the decoders' messages, which may hold raw bytes of the input, away from Python.
    decoded = tf.data.Dataset.from_tensors(encoded).map(decode).ignore_errors()
    refused = tf.data.Dataset.from_tensors((tf.zeros((1, 1, 3), tf.uint8), tf.constant(_REFUSED)))
    return decoded.concatenate(refused).take(1).get_single_element()


def try_decode_image(encoded, *, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, max_scans=MAX_SCANS):
    """Decodes JPEG or PNG data, and says so instead of raising when that cannot be done.

    Args:
        encoded: scalar string tensor, any bytes.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        `(image, problem)`: uint8 (H, W, 3) in [0, 255], and a scalar string tensor that is empty
        where the image is good; where it is not, it says why and the image is one black pixel.
    """
    encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), ())
    image, problem = _try_decode(encoded, max_pixels, max_bytes, max_scans)
    return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(problem, ())


def decode_image(
    encoded, *, name=None, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, max_scans=MAX_SCANS
):
    """Decodes JPEG or PNG data to RGB pixels.

    Grey and palette images are expanded to RGB, CMYK is converted, of 16 bits the high byte stays,
    alpha is dropped.  JPEG pixels equal those of libjpeg's accurate integer transform.

    Args:
        encoded: scalar string tensor, any bytes.
        name: scalar string or string tensor that an error begins with, such as the file's path.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        uint8 (H, W, 3) in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: for data that is empty, neither JPEG nor PNG, animated,
            above a limit, damaged or truncated.
    """
    image, problem = try_decode_image(
        encoded, max_pixels=max_pixels, max_bytes=max_bytes, max_scans=max_scans
    )
    good = tf.equal(problem, "")
    message = problem if name is None else tf.strings.join([name, ": ", problem])
    if tf.executing_eagerly():
        if not good:
            raise tf.errors.InvalidArgumentError(None, None, message.numpy().decode())
        return image
    with tf.control_dependencies([tf.debugging.Assert(good, [message])]):
        return tf.identity(image)


def _png_problem(data):
    if len(data) < _PNG_HEADER_BYTES or data[8:16] != b"\0\0\0\rIHDR":
        return "a PNG must begin with a whole header (IHDR)", None
    width, height = struct.unpack(">II", data[16:24])
    position = 8
    while True:
        if position + 12 > len(data):
            return "truncated: the PNG ends before its IEND chunk", (height, width)
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            return "truncated: the PNG ends before its IEND chunk", (height, width)
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return "damaged: the checksum of a PNG chunk does not match", (height, width)
        if kind == b"acTL":
            return "animated PNG is not decoded", (height, width)
        if kind == b"IEND":
            return None, (height, width)
        position = end


def _jpeg_problem(data, max_scans):
    num_scans = data.count(b"\xff\xda")
    size, problem = None, None
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            segment = data[position + 4 : position + 9]
            if len(segment) == 5:
                precision, *size = struct.unpack(">BHH", segment)
                if precision != 8:
                    problem = f"a JPEG of {precision} bits is not decoded"
        position += 1 if marker == 0xFF else 2 + length
    if problem is None and num_scans > max_scans:
        problem = f"a JPEG may have at most {max_scans} scans, it has {num_scans}"
    if problem is None and (size is None or not num_scans):
        problem = "truncated: the JPEG ends before its pixels"
    if problem is None and b"\xff\xd9" not in data[position:]:
        problem = "truncated: the JPEG ends without an end marker"
    return problem, size


def explain_image_problem(data, *, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, max_scans=MAX_SCANS):
    """Says what is wrong with image data, without decoding it; for messages that name files.

    It sees more than `header_problem` (truncation, checksums), but not everything that a decoder
    sees: None does not promise that the data decodes.

    Args:
        data: bytes.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        A phrase such as "not a JPEG or PNG image, BMP is not decoded", or None.

    Example:

    >>> explain_image_problem(b"GIF89a...")
    'not a JPEG or PNG image, GIF is not decoded'
    """
    if not data:
        return "not a JPEG or PNG image, it is empty"
    if len(data) > max_bytes:
        return f"an image may have at most {max_bytes} bytes, it has {len(data)}"
    for prefix, what in _OTHER_FORMATS:
        if data.startswith(prefix):
            return f"not a JPEG or PNG image, {what}"
    if data.startswith(_PNG_MAGIC):
        problem, size = _png_problem(data)
    elif data.startswith(_JPEG_MAGIC):
        problem, size = _jpeg_problem(data, max_scans)
    else:
        return f"not a JPEG or PNG image, starts with {data[:8].hex()}"
    if size is not None:
        height, width = size
        if height < 1 or width < 1:
            return "its header says that it has no pixels"
        if height * width > max_pixels:
            return (
                f"an image may have at most {max_pixels} pixels, its header says {height} x {width}"
            )
    return problem


def looks_like_image(data):
    """Whether the first bytes of a file are those of a format that is decoded."""
    return data.startswith((_JPEG_MAGIC, _PNG_MAGIC))
