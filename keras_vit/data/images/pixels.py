"""WebP, GIF and BMP data that `headers` has found to be whole -> uint8 (H, W, 3)."""

import tensorflow as tf

_BYTES = [bytes([byte]) for byte in range(256)]


def webp(data):
    """Decodes a still WebP; its alpha channel is dropped."""
    return tf.raw_ops.DecodeWebP(contents=data)[0, :, :, :3]


def gif(data, place):
    """Decodes a still GIF; transparent pixels get the colour that they have in the palette.

    Args:
        data: Scalar string.
        place: Where the flags of its graphic control extension are, int32; 0 if there is none.
    """
    # Without the flag of transparency TensorFlow's pixels are Pillow's.
    flags = tf.cast(tf.io.decode_raw(tf.strings.substr(data, place, 1), tf.uint8)[0], tf.int32)
    rest = tf.strings.substr(data, place + 1, tf.strings.length(data))
    parts = [tf.strings.substr(data, 0, place), tf.gather(_BYTES, flags // 2 * 2), rest]
    return tf.io.decode_gif(tf.where(place > 0, tf.strings.join(parts), data))[0]


def bmp(data, layout):
    """Reads the rows of an uncompressed BMP of 8, 24 or 32 bits.

    Args:
        data: Scalar string.
        layout: int64 (6,), see `headers.bmp`.
    """
    palette, start, bits, goes_up, height, width = tf.unstack(tf.cast(layout, tf.int32), num=6)
    num_bytes = bits // 8
    row = (width * num_bytes + 3) // 4 * 4
    rows = tf.io.decode_raw(tf.strings.substr(data, start, row * height), tf.uint8)
    rows = tf.reshape(rows, (height, row))[:, : width * num_bytes]
    values = tf.reshape(rows, (height, width, num_bytes))

    def coloured():
        table = tf.strings.substr(data, palette, (start - palette) // 4 * 4)
        table = tf.reshape(tf.io.decode_raw(table, tf.uint8), (-1, 4))[:256]
        return tf.gather(tf.pad(table, [[0, 256], [0, 0]]), tf.cast(values[:, :, 0], tf.int32))

    image = tf.cond(num_bytes < 2, coloured, lambda: values)[:, :, :3][:, :, ::-1]
    return tf.where(goes_up > 0, image[::-1], image)
