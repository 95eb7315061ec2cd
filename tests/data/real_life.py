"""Files as they lie in people's folders: what is decoded, and what is refused with which reason."""

import os
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

RNG = np.random.default_rng(0)


def _photo(k):
    small = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((24 + k, 19 + k), Image.Resampling.BICUBIC)


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _box(kind, brand=b""):
    return struct.pack(">I", 16 + len(brand)) + b"ftyp" + kind + b"\0\0\0\0" + brand + bytes(40)


def _interlaced(pixels):
    """An RGB PNG in the seven passes of Adam7, which Pillow reads and does not write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = pixels.shape
    starts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
    steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
    passes = [
        pixels[top::down, left::right]
        for (top, left), (down, right) in zip(starts, steps, strict=True)
    ]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"".join([
        *(b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)),
        *(chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")),
    ])  # fmt: skip


def good(encode):
    """name -> bytes; 40 files."""
    photos = [_photo(k) for k in range(40)]
    # The high byte of 16 bits is what Pillow reads.
    deep = np.asarray(photos[24]).astype(np.uint16) * 256 + 17
    alpha = photos[0].convert("RGBA")
    alpha.putalpha(128)
    files = {f"IMG_{k:04}.JPG": encode(photos[k], "JPEG", exif=_turned(k)) for k in range(1, 9)}
    files |= {
        f"turned{k}.{f.lower()}": encode(photos[k + 8], f, exif=_turned(k))
        for k in (3, 6)
        for f in ("PNG", "WEBP")
    }
    motion = encode(photos[9], "JPEG") + _box(b"mp42") + b"\xff\xda" * 300
    return files | {
        "motion photo.jpg": motion,
        "progressive.jpeg": encode(photos[10], "JPEG", progressive=True),
        "grey.jpg": encode(photos[11].convert("L"), "JPEG"),
        "named wrongly.png": encode(photos[12], "JPEG"),
        "no ending": encode(photos[13], "PNG"),
        "palette.png": encode(photos[14].quantize(16), "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "bilevel.png": encode(photos[15].convert("1"), "PNG"),
        "lossy.webp": encode(photos[16], "WEBP", quality=40),
        "lossless.webp": encode(photos[17], "WEBP", lossless=True),
        "alpha.webp": encode(alpha, "WEBP", lossless=True, exact=True),
        "still.gif": encode(photos[18], "GIF"),
        "transparent.gif": encode(photos[19].quantize(9), "GIF", transparency=1),
        "colour.bmp": encode(photos[20], "BMP"),
        "alpha.bmp": encode(alpha, "BMP"),
        "grey.bmp": encode(photos[21].convert("L"), "BMP"),
        "palette.bmp": encode(photos[22].quantize(50), "BMP"),
        "été.jpg": encode(photos[23], "JPEG"),
        "deep.png": tf.io.encode_png(deep).numpy(),
        "print.jpg": encode(photos[25].convert("CMYK"), "JPEG"),
        "444.jpg": encode(photos[26], "JPEG", subsampling=0),
        "optimized.jpg": encode(photos[27], "JPEG", optimize=True, quality=30),
        "print progressive.jpg": encode(photos[28].convert("CMYK"), "JPEG", progressive=True),
        "interlaced.png": _interlaced(np.asarray(photos[29])),
        "interlaced.gif": encode(photos[30].quantize(40), "GIF", interlace=1),
        "grey and alpha.png": encode(photos[31].convert("LA"), "PNG"),
        "two pictures.jpg": encode(photos[32], "MPO", save_all=True, append_images=[photos[33]]),
        "dot.png": encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"),
    }


def bad(encode):
    """name -> (bytes, what the reason says); 29 files."""
    photos = [_photo(k) for k in range(4)]
    jpeg, png = encode(photos[0], "JPEG"), encode(photos[1], "PNG")
    more = {"save_all": True, "append_images": [photos[0].rotate(180)]}
    deep = np.full((4, 4), 4000, np.uint16)
    return {
        "empty.jpg": (b"", "it is empty"),
        "page.jpg": (b"<!DOCTYPE html><html>", "HTML"),
        "notes.jpg": (b"hello, world", "starts with 68656c6c6f2c2077"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "IMG_0100.HEIC": (_box(b"heic", b"mif1"), "HEIC"),
        "IMG_0101.heic": (_box(b"mif1", b"heic"), "HEIC"),
        "web.avif": (_box(b"avif", b"mif1"), "AVIF"),
        "moving.avif": (_box(b"avis", b"avif"), "AVIF"),
        "raw.dng": (b"MM\0*" + bytes(20), "TIFF"),
        "film.mp4": (_box(b"isom"), "video"),
        "scan.tiff": (encode(photos[0], "TIFF"), "TIFF"),
        "new.jxl": (b"\xff\x0a" + bytes(40), "JPEG XL"),
        "old.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        "letter.pdf": (b"%PDF-1.7\n", "PDF"),
        "sound.wav": (b"RIFF\0\0\0\0WAVEfmt ", "starts with 52494646"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[:-20], "truncated"),
        "flipped.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "damaged"),
        "cut.webp": (encode(photos[0], "WEBP")[:60], "damaged or truncated"),
        "cut.gif": (encode(photos[0], "GIF")[:-40], "damaged or truncated"),
        "cut.bmp": (encode(photos[0], "BMP")[:-5], "the BMP ends"),
        "moving.gif": (encode(photos[0], "GIF", **more), "animated GIF"),
        "moving.png": (encode(photos[0], "PNG", **more), "animated PNG"),
        "moving.webp": (encode(photos[0], "WEBP", **more), "animated WebP"),
        "12 bits.png": (encode(deep, "PNG"), "multiply them by 16"),
        "icon.ico": (encode(photos[2], "ICO"), "ICO is not decoded"),
        "layers.psd": (b"8BPS\0\1" + bytes(30), "PSD is not decoded"),
        "begun.jpg": (b"\xff\xd8\xff", "truncated: the JPEG ends before its pixels"),
        "fax.bmp": (encode(photos[0].convert("1"), "BMP"), "a BMP must be uncompressed"),
    }


# Names that people's cameras, scripts and languages give.
STRANGE_NAMES = (
    "name with spaces .jpg",
    "two\nlines.jpg",
    os.fsdecode(b"latin\xe9.jpg"),
    "l" * 240 + ".jpg",
    "=formula.jpg",
    "-dash.jpg",
    "\u202egnp.jpg",
)


def write(folder, encode):
    """Writes all files into a folder, with hidden ones that are skipped.

    Returns:
        `(good, bad)`: as `good` and `bad` return them.
    """
    folder.mkdir(parents=True)
    files, broken = good(encode), bad(encode)
    for name, data in (files | {name: data for name, (data, _) in broken.items()}).items():
        (folder / name).write_bytes(data)
    for name in (".DS_Store", "._IMG_0001.JPG", ".hidden.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._IMG_0002.JPG").write_bytes(b"x")
    return files, broken
