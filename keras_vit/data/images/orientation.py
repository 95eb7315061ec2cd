"""EXIF's orientation: which way a camera was held, read from JPEG, PNG and WebP."""

import tensorflow as tf

from keras_vit.data.images.headers import big, little, numbers

_MAX_STEPS = 1_000
_TAG = 0x0112
_JPEG, _PNG, _WEBP = range(3)  # the numbers of `decode`'s formats


def _walk(encoded, start, read):
    """Finds the block of EXIF data: `read(position)` -> (its place or 0, next position, is end)."""

    def step(position, _, is_end):
        place, following, is_end = read(position)
        following = tf.minimum(following, 2**30)
        return following, place, is_end | (place > 0) | (following >= size)

    size = tf.strings.length(encoded, name=None)
    size = tf.cast(size, tf.int64)
    state = (tf.constant(start, tf.int64), tf.constant(0, tf.int64), tf.constant(False))
    return tf.while_loop(
        lambda position, place, is_end: ~is_end, step, state, maximum_iterations=_MAX_STEPS
    )[1]


def _jpeg_block(encoded):
    def read(position):
        head = numbers(encoded, tf.cast(position, tf.int32), 10)
        is_exif = (head[1] == 0xE1) & tf.reduce_all(head[4:] == list(b"Exif\0\0"))
        is_end = (head[0] != 0xFF) | (head[1] == 0xDA) | (head[1] == 0xD9)
        following = tf.where(head[1] == 0xFF, position + 1, position + 2 + big(head[2:4]))
        return tf.where(is_exif & ~is_end, position + 10, 0), following, is_end

    return _walk(encoded, 2, read)


def _png_block(encoded):
    def read(position):
        head = numbers(encoded, tf.cast(position, tf.int32), 8)
        is_exif = tf.reduce_all(head[4:] == list(b"eXIf"))
        is_end = tf.reduce_all(head[4:] == list(b"IEND"))
        return tf.where(is_exif, position + 8, 0), position + 12 + big(head[:4]), is_end

    return _walk(encoded, 8, read)


def _webp_block(encoded):
    def read(position):
        head = numbers(encoded, tf.cast(position, tf.int32), 14)
        is_exif = tf.reduce_all(head[:4] == list(b"EXIF"))
        has_prefix = tf.reduce_all(head[8:14] == list(b"Exif\0\0"))
        place = position + tf.where(has_prefix, tf.constant(14, tf.int64), 8)
        length = little(head[4:8])
        return tf.where(is_exif, place, 0), position + 8 + length + length % 2, False

    return _walk(encoded, 12, read)


def _tag(encoded, place):
    """The orientation in the TIFF block at a place, 1 where there is none."""

    def at(offset, length):
        return numbers(encoded, tf.cast(tf.minimum(place + offset, 2**30), tf.int32), length)

    is_little = at(0, 2)[0] == ord("I")

    def value(values):
        return tf.where(is_little, little(values), big(values))

    first = value(at(4, 4))
    count = tf.minimum(value(at(first, 2)), 1_000)

    def step(index, _):
        entry = at(first + 2 + 12 * index, 12)
        found = tf.where(value(entry[:2]) == _TAG, value(entry[8:10]), 0)
        return index + 1, found

    state = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    found = tf.while_loop(lambda index, found: (index < count) & (found < 1), step, state)[1]
    return tf.where((found > 8) | (found < 1), tf.constant(1, tf.int64), found)


def exif_orientation(encoded, kind):
    """Returns EXIF's orientation, int32 in 1..8, 1 where there is none.

    Args:
        encoded: Scalar string, the encoded image.
        kind: Its format, int32: 0 JPEG, 1 PNG, 2 WebP; others have none.
    """
    place = tf.switch_case(
        tf.where((kind >= _JPEG) & (kind <= _WEBP), kind, 3),
        [
            lambda: _jpeg_block(encoded),
            lambda: _png_block(encoded),
            lambda: _webp_block(encoded),
            lambda: tf.constant(0, tf.int64),
        ],
    )
    found = tf.cond(place > 0, lambda: _tag(encoded, place), lambda: tf.constant(1, tf.int64))
    return tf.cast(found, tf.int32)


def turn(image, orientation):
    """Turns a stored image the way it is to be seen.

    Args:
        image: (H, W, C).
        orientation: int32 in 1..8, as in EXIF.

    Returns:
        (H, W, C) or (W, H, C).
    """

    def transposed():
        return tf.transpose(image, (1, 0, 2))

    return tf.switch_case(
        orientation - 1,
        [
            lambda: tf.identity(image),
            lambda: image[:, ::-1],
            lambda: image[::-1, ::-1],
            lambda: image[::-1],
            transposed,
            lambda: transposed()[:, ::-1],
            lambda: transposed()[::-1, ::-1],
            lambda: transposed()[::-1],
        ],
    )
