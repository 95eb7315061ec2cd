"""What the headers of an image say, read by graph operations before any decoder sees the data.

Each function takes the encoded image, a scalar string, and returns `(size, fault)`: int64 (2,),
height and width, and an int32 index into `FAULTS`, 0 where nothing is wrong.  Containers are walked
by their lengths and not searched.
"""

import tensorflow as tf

from keras_vit.data.images.image_problems import (
    ANIMATED,
    BMP_RULE,
    GIF_RULE,
    MAX_GIF_BYTES,
    PNG_HEADER_BYTES,
    PNG_MAGIC,
)

FAULTS = (
    "",
    "truncated: the JPEG ends before its pixels",
    "a JPEG may have at most {max_scans} scans, it has more",
    "a PNG must begin with a whole header (IHDR)",
    ANIMATED.format("PNG"),
    ANIMATED.format("WebP"),
    "truncated: the WebP ends within its header",
    GIF_RULE,
    ANIMATED.format("GIF"),
    f"a GIF may have at most {MAX_GIF_BYTES} bytes, it has more",
    BMP_RULE,
    "truncated: the BMP ends before its pixels",
)
_NONE, _NO_SCAN, _SCANS, _IHDR, _APNG, _AWEBP, _WEBP, _GIF, _AGIF, _LONG_GIF, _BMP, _SHORT_BMP = (
    range(len(FAULTS))
)
_SCAN_MARKER = b"\xff\xda"
_MAX_STEPS = 2**22


def numbers(data, start, length):
    """Returns bytes of a string as int64 (length,), zeros where it has ended."""
    part = tf.strings.substr(data, tf.minimum(start, tf.strings.length(data)), length)
    part = tf.strings.substr(tf.strings.join([part, b"\0" * length]), 0, length)
    return tf.ensure_shape(tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int64), (length,))


def big(values):
    """Returns the unsigned number that bytes are, the highest first."""
    n = values.shape[0]
    return tf.reduce_sum(values * tf.constant([256 ** (n - 1 - k) for k in range(n)], tf.int64))


def little(values):
    """Returns the unsigned number that bytes are, the lowest first."""
    return big(values[::-1])


def _signed(value):
    return tf.where(value >= 2**31, value - 2**32, value)


def _first_fault(*rules):
    """The fault of the first rule (is broken, fault) that is."""
    fault = tf.constant(_NONE)
    for is_broken, number in reversed(rules):
        fault = tf.where(is_broken, number, fault)
    return fault


def _count(data, separator, most):
    """How often bytes occur anywhere, at most `most` + 1: one pass, cheaper than a comparison."""
    parts = tf.raw_ops.StringSplitV2(input=[data], sep=separator, maxsplit=most + 1)
    return tf.cast(parts.shape[1] - 1, tf.int32)


def _walked_scans(jpeg, max_scans):
    """Scans up to the image's end: behind it, and in segments, may lie anything."""
    values = tf.cast(tf.io.decode_raw(jpeg, tf.uint8), tf.int32)
    following = values[1:]
    # In a scan 0xFF is followed by zero or a restart, if it is not a marker.
    is_marker = (values[:-1] == 0xFF) & (following > 0) & (following < 0xFF)
    is_marker &= (following < 0xD0) | (following > 0xD7)
    places = tf.cast(tf.where(is_marker)[:, 0], tf.int32)
    size = tf.size(values)

    def step(position, count, _):
        index = tf.searchsorted(places, position[tf.newaxis])[0]
        is_end = index >= tf.size(places)
        place = tf.where(is_end, 0, tf.gather(places, tf.minimum(index, tf.size(places) - 1)))
        marker = values[place + 1]
        at = tf.minimum(place + 2, size - 2)
        length = values[at] * 256 + values[at + 1]
        count += tf.cast(~is_end & (marker == 0xDA), tf.int32)
        is_end |= marker == 0xD9
        length = tf.where(marker == 0x01, 0, tf.maximum(length, 2))  # a marker without a segment
        return place + 2 + length, count, is_end

    def goes_on(position, count, is_end):
        return ~is_end & (count <= max_scans) & (position < size - 2)

    state = (tf.constant(2), tf.constant(0), tf.size(places) < 1)
    return tf.while_loop(goes_on, step, state, maximum_iterations=_MAX_STEPS)[1]


def num_scans(jpeg, max_scans):
    """Returns the number of scans of a JPEG, at most max_scans + 1, int32."""
    found = _count(jpeg, _SCAN_MARKER, max_scans)
    return tf.cond(
        found > max_scans, lambda: _walked_scans(jpeg, max_scans), lambda: tf.identity(found)
    )


def jpeg_fault(jpeg, max_scans):
    """Returns the fault of a JPEG whose scans are counted; its size is the decoder's to read."""
    count = num_scans(jpeg, max_scans)
    return _first_fault((count < 1, _NO_SCAN), (count > max_scans, _SCANS)), count


def _has_chunk(png, kind):
    """Whether a PNG has a chunk before its pixels, by walking its chunks."""

    def step(position, _, is_found):
        head = numbers(png, position, 8)
        is_found = tf.reduce_all(head[4:] == list(kind))
        ends = [tf.reduce_all(head[4:] == list(end)) for end in (b"IDAT", b"IEND", bytes(4))]
        position += tf.cast(tf.minimum(big(head[:4]), 2**30), tf.int32) + 12
        return position, tf.reduce_any(ends) | is_found, is_found

    state = (tf.constant(8), tf.constant(False), tf.constant(False))
    return tf.while_loop(
        lambda position, is_end, _: ~is_end & (position < tf.strings.length(png)), step, state,
        maximum_iterations=_MAX_STEPS,
    )[2]  # fmt: skip


def png(data):
    """Reads IHDR, and whether the PNG is animated."""
    has_header = tf.logical_and(
        tf.equal(tf.strings.substr(data, 0, 16), PNG_MAGIC + b"\x00\x00\x00\x0dIHDR"),
        tf.strings.length(data) >= PNG_HEADER_BYTES,
    )
    head = numbers(data, 16, 8)
    is_animated = tf.cond(
        _count(data, b"acTL", 0) > 0, lambda: _has_chunk(data, b"acTL"), lambda: False
    )
    fault = _first_fault((~has_header, _IHDR), (is_animated, _APNG))
    return tf.stack([big(head[4:]), big(head[:4])]), fault


def webp(data):
    """Reads the canvas of a WebP from its first chunk, of each of the three kinds."""
    head = numbers(data, 0, 32)
    kind = tf.strings.substr(data, 12, 4)
    is_extended, is_lossless, is_lossy = (tf.equal(kind, k) for k in (b"VP8X", b"VP8L", b"VP8 "))
    bits = little(head[21:25])
    width, height = bits % 2**14 + 1, bits // 2**14 % 2**14 + 1
    width = tf.where(is_extended, little(head[24:27]) + 1, width)
    height = tf.where(is_extended, little(head[27:30]) + 1, height)
    width = tf.where(is_lossy, little(head[26:28]) % 2**14, width)
    height = tf.where(is_lossy, little(head[28:30]) % 2**14, height)
    is_whole = (is_extended | is_lossless | is_lossy) & (tf.strings.length(data) >= 30)
    is_animated = is_extended & (head[20] // 2 % 2 > 0)
    return tf.stack([height, width]), _first_fault((~is_whole, _WEBP), (is_animated, _AWEBP))


def gif(data):
    """Walks the blocks of a GIF: it must have one picture, which fills the screen.

    Returns:
        `(size, fault, place)`: `place` is that of the flags of the last graphic control extension,
        int32, or 0.
    """
    length = tf.strings.length(data)
    is_short = length <= MAX_GIF_BYTES
    values = tf.cast(tf.io.decode_raw(tf.where(is_short, data, b"GIF89a"), tf.uint8), tf.int32)
    values = tf.concat([values, tf.zeros(32, tf.int32)], axis=0)
    size = tf.size(values) - 32

    def two(at):
        return values[at] + 256 * values[at + 1]

    def table(flags):  # bytes of a colour table
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def step(position, is_data, count, fills, place, _):
        kind = values[position]
        is_picture, is_extension = ~is_data & (kind == 0x2C), ~is_data & (kind == 0x21)
        flags = values[position + 9]
        box = tf.stack([two(position + 1), two(position + 3), two(position + 5), two(position + 7)])
        screen = tf.stack([0, 0, two(6), two(8)])
        fills = tf.where(is_picture, fills & tf.reduce_all(box == screen), fills)
        is_control = is_extension & (values[position + 1] == 0xF9) & (count < 1)
        place = tf.where(is_control, position + 3, place)
        after_data = position + 1 + kind
        following = tf.where(is_picture, position + 11 + table(flags), position + 2)
        following = tf.where(is_data, after_data, following)
        count += tf.cast(is_picture, tf.int32)
        is_end = ~(is_data | is_picture | is_extension) | (following >= size)
        goes_on_with_data = tf.where(is_data, kind > 0, is_picture | is_extension)
        return tf.minimum(following, size), goes_on_with_data, count, fills, place, is_end

    def goes_on(position, is_data, count, fills, place, is_end):
        return ~is_end & (count < 2)

    start = tf.minimum(13 + table(values[10]), size)
    state = (
        start,
        tf.constant(False),
        tf.constant(0),
        tf.constant(True),
        tf.constant(0),
        size < 14,
    )
    _, _, count, fills, place, _ = tf.while_loop(
        goes_on, step, state, maximum_iterations=MAX_GIF_BYTES
    )
    fault = _first_fault((~is_short, _LONG_GIF), (count > 1, _AGIF), ((count < 1) | ~fills, _GIF))
    return tf.cast(tf.stack([two(8), two(6)]), tf.int64), fault, place


def bmp(data):
    """Reads the header of a BMP.

    Returns:
        `(size, fault, layout)`: `layout` is int64 (6,), where the palette and the pixels begin, the
        bits of a pixel, 1 where rows go up, and the size.
    """
    head = numbers(data, 0, 54)
    pixels, header_bytes = little(head[10:14]), little(head[14:18])
    width, height = _signed(little(head[18:22])), _signed(little(head[22:26]))
    bits, compression = little(head[28:30]), little(head[30:34])
    size = tf.stack([tf.abs(height), tf.maximum(width, 0)])
    palette = 14 + header_bytes
    is_known = (header_bytes >= 40) & (header_bytes <= 124) & (compression == 0)
    is_known &= tf.reduce_any(bits == tf.constant([8, 24, 32], tf.int64))
    is_known &= pixels >= tf.where(bits == 8, palette + 4, palette)
    row = (tf.cast(size[1], tf.float64) * tf.cast(bits, tf.float64) / 8 + 3) // 4 * 4
    needed = tf.cast(pixels, tf.float64) + row * tf.cast(size[0], tf.float64)
    is_whole = needed <= tf.cast(tf.strings.length(data), tf.float64)
    fault = _first_fault((~is_known, _BMP), (~is_whole, _SHORT_BMP))
    goes_up = tf.cast(height > 0, tf.int64)
    return size, fault, tf.stack([palette, pixels, bits, goes_up, *tf.unstack(size, num=2)])
