"""Pixel truth: what is decoded equals Pillow's decoding, for every kind of JPEG and PNG."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.data.images import decode

RNG = np.random.default_rng(7)
COARSE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
PHOTO = Image.fromarray(COARSE).resize((67, 45), Image.BICUBIC)
# Adam7: the first row and column of each pass, and its steps.
PASSES = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def _save(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(samples, depth):
    """(h, w, channels) of `depth` bits -> filtered rows of a PNG, without filter."""
    rows = []
    for row in samples:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
            packed = np.packbits(bits.ravel().astype(np.uint8)).tobytes()
        rows.append(b"\0" + packed)
    return b"".join(rows)


def _png(samples, depth, color, interlaced=False, extra=b""):
    """Any PNG: samples (h, w, channels), color 0 grey, 2 RGB, 3 palette, 4 grey alpha, 6 RGBA."""
    height, width, _ = samples.shape
    data = _rows(samples, depth)
    if interlaced:
        parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES]
        data = b"".join(_rows(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    chunks = [_chunk(b"IHDR", header), extra, _chunk(b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _pngs():
    """name -> (bytes, the pixels that they are)."""
    result = {}
    for interlaced in (False, True):
        for depth in (1, 2, 4, 8, 16):
            grey = RNG.integers(0, 2**depth, (13, 11, 1))
            # Lower depths are stretched to 255; of 16 bits the high byte stays.
            pixels = grey >> 8 if depth == 16 else grey * (255 // (2**depth - 1))
            name = f"grey_{depth}" + ("_interlaced" if interlaced else "")
            result[name] = _png(grey, depth, 0, interlaced), pixels.repeat(3, -1)
        for depth in (1, 2, 4, 8):
            palette = RNG.integers(0, 256, (2**depth, 3), dtype=np.uint8)
            index = RNG.integers(0, 2**depth, (13, 11, 1))
            for transparent in (False, True):
                extra = _chunk(b"PLTE", palette.tobytes())
                extra += _chunk(b"tRNS", b"\x00\x80") if transparent else b""
                name = f"palette_{depth}_{transparent}_{interlaced}"
                result[name] = _png(index, depth, 3, interlaced, extra), palette[index[..., 0]]
        for depth in (8, 16):
            for color, channels in ((2, 3), (4, 2), (6, 4)):
                samples = RNG.integers(0, 2**depth, (13, 11, channels))
                pixels = samples >> (depth - 8)
                pixels = pixels[..., :1].repeat(3, -1) if color == 4 else pixels[..., :3]
                name = f"color_{color}_{depth}_{interlaced}"
                result[name] = _png(samples, depth, color, interlaced), pixels
    grey = RNG.integers(0, 256, (5, 4, 1))
    key = _chunk(b"tRNS", struct.pack(">H", int(grey[0, 0, 0])))
    result["grey_with_a_transparent_value"] = _png(grey, 8, 0, extra=key), grey.repeat(3, -1)
    result["1x1"] = _png(grey[:1, :1], 8, 0), grey[:1, :1].repeat(3, -1)
    return result


def _jpegs():
    result = {
        f"{subsampling}_{quality}_{progressive}": _save(
            PHOTO, "JPEG", subsampling=subsampling, quality=quality, progressive=progressive
        )
        for subsampling in ("4:4:4", "4:2:2", "4:2:0")
        for quality in (30, 95)
        for progressive in (False, True)
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        result[f"exif_{orientation}"] = _save(PHOTO, "JPEG", exif=exif)
    for size in ((1, 1), (65_500, 1), (1, 65_500), (7, 9), (8, 8)):
        result[f"{size[0]}x{size[1]}"] = _save(PHOTO.resize(size), "JPEG")
    result["grey"] = _save(PHOTO.convert("L"), "JPEG")
    result["grey_progressive"] = _save(PHOTO.convert("L"), "JPEG", progressive=True)
    result["restart_markers"] = _save(PHOTO, "JPEG", restart_marker_blocks=2)
    result["optimized"] = _save(PHOTO, "JPEG", optimize=True)
    result["without_chroma_subsampling_rgb"] = _save(PHOTO, "JPEG", keep_rgb=True)
    return result


def _cut_from(pixels):
    height, width, _ = pixels.shape
    return pixels[height // 3 : height // 3 + (height + 1) // 2, width // 4 :][
        :, : (width + 1) // 2
    ]


def _window(size):
    return tf.stack([size[0] // 3, size[1] // 4, (size[0] + 1) // 2, (size[1] + 1) // 2])


@pytest.fixture(scope="module")
def decoded():
    """bytes -> the pixels of the whole and of a window, inside of tf.data."""

    def both(data):
        part, problem = decode.try_decode_image(data, find_window=_window)
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
            return decode.decode_image(data), tf.identity(part)

    def run(images):
        dataset = tf.data.Dataset.from_tensor_slices(list(images)).map(both)
        return [(whole.numpy(), part.numpy()) for whole, part in dataset]

    return run


def test_png_pixels_are_those_that_were_written(decoded):
    images = _pngs()
    assert len(images) >= 35
    for (name, (data, pixels)), (whole, part) in zip(
        images.items(), decoded(data for data, _ in images.values()), strict=True
    ):
        np.testing.assert_array_equal(whole, pixels, err_msg=name)
        np.testing.assert_array_equal(part, _cut_from(pixels), err_msg=name)
        if "16" not in name:  # Pillow clips 16 bits to white
            reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3]
            np.testing.assert_array_equal(whole, reference, err_msg=name)


def test_jpeg_pixels_are_pillows(decoded):
    images = _jpegs()
    assert len(images) >= 30
    for (name, data), (whole, part) in zip(images.items(), decoded(images.values()), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(whole, pixels, err_msg=name)
        np.testing.assert_array_equal(part, _cut_from(pixels), err_msg=name)


def test_cmyk_jpeg_pixels_are_near_pillows(decoded):
    data = [_save(PHOTO.convert("CMYK"), "JPEG", quality=q) for q in (60, 95)]
    for encoded, (whole, part) in zip(data, decoded(data), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.int32)
        # The two round the product of ink and black differently.
        assert np.abs(whole - pixels).max() <= 2
        np.testing.assert_array_equal(part, _cut_from(whole))
