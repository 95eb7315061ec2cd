"""What may be decoded, and what is wrong with image data that may not, without decoding it."""

import struct
import zlib

MAX_BYTES = 2**25
MAX_PIXELS = 2**25
# libjpeg-turbo advises a limit on scans; encoders write about ten.
MAX_SCANS = 100

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Signature, then the length, type, 13 bytes of data and CRC of IHDR.
PNG_HEADER_BYTES = 8 + 4 + 4 + 13 + 4
GIF_MAGIC = b"GIF8"
BMP_MAGIC = b"BM"
# Of files; above `MAX_PIXELS` a JPEG is decoded at a reduced scale, and nothing else is decoded.
MAX_FILE_PIXELS = 2**28
MAX_FILE_BYTES = 2**27
# Of the format: both sides have 16 bits.
MAX_JPEG_PIXELS = (2**16 - 1) ** 2
# Its blocks are walked one by one.
MAX_GIF_BYTES = 2**23
FORMATS = "JPEG, PNG, WebP, GIF or BMP"
ANIMATED = "animated {} is not decoded"
GIF_RULE = "a GIF must have a picture that fills its screen"
BMP_RULE = "a BMP must be uncompressed, with 8, 24 or 32 bits for each pixel"
DARK_PNG = (
    "a 16-bit PNG must use its bits: no value is over 4095 of 65535, so that it holds 12 bits; "
    "multiply them by 16"
)
# What data that is none of these usually is, by its first bytes.
OTHER_FORMATS = (
    (b"version https://git-lfs", "looks like a git-lfs pointer, run `git lfs pull`"),
    (b"<", "looks like HTML or XML"),
    (b"\xff\x0a", "JPEG XL is not decoded"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL is not decoded"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000 is not decoded"),
    (b"II*\x00", "TIFF is not decoded"),
    (b"MM\x00*", "TIFF is not decoded"),
    (b"\x00\x00\x01\x00", "ICO is not decoded, save it as PNG"),
    (b"8BPS", "PSD is not decoded, save it as PNG"),
    (b"%PDF", "looks like PDF"),
    (b"PK\x03\x04", "looks like a ZIP archive"),
    (b"\x00\x05\x16\x07", "looks like what macOS keeps beside a file (AppleDouble)"),
)
# The same by the bytes from the fourth on.
BRANDS = (
    *((b"ftyp" + brand, "AVIF is not decoded") for brand in (b"avif", b"avis")),
    *(
        (b"ftyp" + brand, "HEIC is not decoded, save it as JPEG")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    (b"ftypcrx ", "CR3 is not decoded, save it as JPEG"),
    (b"ftyp", "looks like a video (MP4)"),
)


def is_webp(data):
    """Whether the first bytes are those of a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _png_problem(data):
    if len(data) < PNG_HEADER_BYTES or data[8:16] != b"\0\0\0\rIHDR":
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
            return ANIMATED.format("PNG"), (height, width)
        if kind == b"IEND":
            return None, (height, width)
        position = end


def _jpeg_problem(data, max_scans):
    num_scans, size, problem, has_end = 0, None, None, False
    position = 2
    while position + 2 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0 or 0xD0 <= marker <= 0xD7:
            following = data.find(b"\xff", position + 1)  # within a scan, or damage
            position = following if following >= 0 else len(data)
            continue
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9:
            has_end = True
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            num_scans += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            segment = data[position + 4 : position + 9]
            if len(segment) == 5:
                precision, *size = struct.unpack(">BHH", segment)
                if precision != 8:
                    problem = f"a JPEG of {precision} bits is not decoded"
        position += 2 if marker == 0x01 else 2 + max(length, 2)
    if problem is None and num_scans > max_scans:
        problem = f"a JPEG may have at most {max_scans} scans, it has {num_scans}"
    if problem is None and (size is None or not num_scans):
        problem = "truncated: the JPEG ends before its pixels"
    if problem is None and not has_end:
        problem = "truncated: the JPEG ends without an end marker"
    return problem, size


def explain_image_problem(data, *, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES, max_scans=MAX_SCANS):
    """Says what is wrong with image data, without decoding it; for messages that name files.

    It sees more than the checks before the decoder (truncation, checksums), but not everything that
    a decoder sees: None does not promise that the data decodes.

    Args:
        data: bytes.
        max_pixels: the largest height x width that is decoded.
        max_bytes: the largest length that is decoded.
        max_scans: the largest number of scans of a JPEG that is decoded.

    Returns:
        A phrase such as "an image may have at most ...", or None.

    Example:

    >>> explain_image_problem(b"II*\\0...")
    'not a JPEG, PNG, WebP, GIF or BMP image, TIFF is not decoded'
    """
    if not data:
        return f"not a {FORMATS} image, it is empty"
    if len(data) > max_bytes:
        return f"an image may have at most {max_bytes} bytes, it has {len(data)}"
    for prefix, what in OTHER_FORMATS:
        if data.startswith(prefix):
            return f"not a {FORMATS} image, {what}"
    for brand, what in BRANDS:
        if data[4:12].startswith(brand):
            return f"not a {FORMATS} image, {what}"
    if data.startswith(PNG_MAGIC):
        problem, size = _png_problem(data)
    elif data.startswith(JPEG_MAGIC):
        problem, size = _jpeg_problem(data, max_scans)
    elif looks_like_image(data):
        return None  # the checks before the decoder say it
    else:
        return f"not a {FORMATS} image, starts with {data[:8].hex()}"
    if size is not None:
        height, width = size
        if height < 1 or width < 1:
            return "its header says that it has no pixels"
        is_jpeg = data.startswith(JPEG_MAGIC)
        max_pixels = max_pixels if is_jpeg else min(max_pixels, MAX_PIXELS)
        if height * width > max_pixels:
            return (
                f"an image may have at most {max_pixels} pixels, its header says {height} x {width}"
            )
    return problem


def looks_like_image(data):
    """Whether the first bytes of a file are those of a format that is decoded."""
    return is_webp(data) or data.startswith((JPEG_MAGIC, PNG_MAGIC, GIF_MAGIC, BMP_MAGIC))
