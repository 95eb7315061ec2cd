import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_vit.data.images import decode

RNG = np.random.default_rng(0)
PHOTO = np.kron(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8), np.ones((5, 5, 1), np.uint8))


def _png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, depth=8, color=0, data=b"", extra=b""):
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + _png_chunk(b"IDAT", zlib.compress(data))
        + _png_chunk(b"IEND", b"")
    )


def _with_jpeg_size(jpeg, height, width):
    position = jpeg.index(b"\xff\xc0")
    return jpeg[: position + 5] + struct.pack(">HH", height, width) + jpeg[position + 9 :]


def _scan_bomb(encode, num_scans):
    """A progressive JPEG whose last scan stands there again and again."""
    jpeg = encode(PHOTO, "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * num_scans + b"\xff\xd9"


def _good_images(encode):
    photo = Image.fromarray(PHOTO)
    rgba = np.dstack([PHOTO, RNG.integers(0, 256, PHOTO.shape[:2], dtype=np.uint8)])
    return {
        **{
            f"jpeg_subsampling_{s}": encode(photo, "JPEG", subsampling=s, quality=90)
            for s in (0, 1, 2)
        },
        "jpeg_progressive": encode(photo, "JPEG", progressive=True),
        "jpeg_grey": encode(photo.convert("L"), "JPEG"),
        "jpeg_1x1": encode(photo.resize((1, 1)), "JPEG"),
        "jpeg_65500x1": encode(photo.resize((65500, 1)), "JPEG"),
        "png_rgb": encode(photo, "PNG"),
        "png_grey": encode(photo.convert("L"), "PNG"),
        "png_bilevel": encode(photo.convert("1"), "PNG"),
        "png_palette": encode(photo.quantize(7), "PNG"),
        "png_grey_2_bits": _png(4, 1, depth=2, data=b"\x00\x1b"),
        "png_1x1": encode(photo.resize((1, 1)), "PNG"),
        "png_alpha": encode(rgba, "PNG"),
        "png_grey_alpha": encode(Image.fromarray(rgba).convert("LA"), "PNG"),
        "png_acTL_in_its_pixels": _png(4, 1, data=b"\0acTL", extra=_png_chunk(b"tEXt", b"k\0acTL")),
        "webp_lossy": encode(photo, "WEBP"),
        "webp_lossless": encode(photo, "WEBP", lossless=True),
        "webp_alpha": encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True),
        "webp_alpha_lossy": encode(Image.fromarray(rgba), "WEBP"),
        "gif": encode(photo, "GIF"),
        "gif_transparent": encode(photo.quantize(9), "GIF", transparency=2),
        "gif_grey": encode(photo.convert("L"), "GIF"),
        "gif_comment": encode(photo, "GIF", comment=b"," * 600),
        "bmp": encode(photo, "BMP"),
        "bmp_alpha": encode(Image.fromarray(rgba), "BMP"),
        "bmp_grey": encode(photo.convert("L"), "BMP"),
        "bmp_palette": encode(photo.quantize(9), "BMP"),
        "bmp_from_the_top": _bmp_from_the_top(encode),
        "motion_photo": encode(photo, "JPEG") + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 500,
        "motion_photo_progressive": encode(photo, "JPEG", progressive=True) + b"\xff\xda" * 500,
        "jpeg_comment": _with_comments(encode(photo, "JPEG"), b"\xff\xda" * 150),
    }


def _bmp_from_the_top(encode):
    bmp = bytearray(encode(PHOTO, "BMP"))
    bmp[22:26] = struct.pack("<i", -PHOTO.shape[0])
    return bytes(bmp)


def _with_comments(jpeg, text):
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + jpeg[2:]


def test_decode_image_equals_pillow(encode):
    for name, data in _good_images(encode).items():
        image = decode.decode_image(data)
        assert image.dtype == tf.uint8
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(image, expected, err_msg=name)


def test_scans_behind_a_false_end_are_counted(encode):
    jpeg = encode(PHOTO, "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xd9\xff\xd9"
    last = jpeg.rindex(b"\xff\xda")
    scan = jpeg[last:-2]
    bomb = jpeg[:last] + comment + scan * 150 + b"\xff\xd9"
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 100 scans"):
        decode.decode_image(bomb)
    assert "at most 100 scans" in decode.explain_image_problem(bomb)


def test_decode_image_cmyk_is_near_pillow(encode):
    data = encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int32)
    # The two round the product of ink and black differently.
    assert np.abs(decode.decode_image(data).numpy() - expected).max() <= 2


def test_decode_image_ignores_exif_orientation(encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(PHOTO), "JPEG", exif=exif)
    assert decode.decode_image(data).shape == PHOTO.shape


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_turns_as_exif_says_where_it_is_asked_for(encode, format, orientation):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PHOTO), format, exif=exif)
    stored = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    image = decode.decode_image(data, orientation="exif")
    np.testing.assert_array_equal(image, expected)
    window = tf.constant([1, 2, 9, 7])
    for decoded in (decode.decode_image, decode.decode_image_unnamed):
        part = decoded(data, orientation="exif", find_window=lambda size: window)
        np.testing.assert_array_equal(part, expected[1:10, 2:9])


def test_decode_image_of_large_photographs_is_reduced_by_the_decoder(encode, monkeypatch):
    photo = Image.fromarray(PHOTO).resize((330, 201))
    data = encode(photo, "JPEG")
    monkeypatch.setattr(decode, "MAX_PIXELS", 330 * 201 // 5)
    for limit, scale in ((330 * 201, 4), (330 * 201 - 1, None)):
        image, problem = decode._try_decode(tf.constant(data), limit, 2**20, 100)
        if scale is None:
            assert b"at most 66329 pixels, its header says 201 x 330" in problem.numpy()
            continue
        assert problem == b""
        draft = Image.open(io.BytesIO(data))
        draft.draft("RGB", (330 // scale, 201 // scale))
        np.testing.assert_array_equal(image, np.asarray(draft))
    for other in (encode(photo, "PNG"), encode(photo, "WEBP")):
        problem = decode._try_decode(tf.constant(other), 2**28, 2**20, 100)[1].numpy()
        assert b"an image may have at most" in problem


def test_decode_image_16_bit_png_keeps_the_high_byte(encode):
    values = RNG.integers(0, 2**16, (5, 7)).astype(np.uint16)
    image = decode.decode_image(encode(values, "PNG"))
    np.testing.assert_array_equal(image, np.repeat((values >> 8)[..., np.newaxis], 3, -1))


def test_decode_image_in_tf_data_equals_eager(encode):
    data = list(_good_images(encode).values())
    dataset = tf.data.Dataset.from_tensor_slices(data).map(decode.decode_image)
    assert dataset.element_spec == tf.TensorSpec((None, None, 3), tf.uint8)
    for image, encoded in zip(dataset, data, strict=True):
        np.testing.assert_array_equal(image, decode.decode_image(encoded))


def test_decode_image_constant_in_a_graph_equals_eager(encode):
    # Constant folding sees the data itself here.
    for data in (encode(PHOTO, "PNG"), encode(PHOTO, "JPEG")):
        image = tf.function(lambda data=data: decode.decode_image(tf.constant(data)))()
        np.testing.assert_array_equal(image, decode.decode_image(data))


def test_try_decode_image_in_a_saved_model_flags_bad_items(tmp_path, encode):
    class Decoder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def __call__(self, batch):
            def sums(encoded):
                image, problem = decode.try_decode_image(encoded)
                return tf.reduce_sum(tf.cast(image, tf.int64)), problem

            return tf.map_fn(sums, batch, fn_output_signature=(tf.int64, tf.string))

    tf.saved_model.save(Decoder(), str(tmp_path / "decoder"))
    decoder = tf.saved_model.load(str(tmp_path / "decoder"))
    png = encode(PHOTO, "PNG")
    sums, problems = decoder(tf.constant([png, b"GIF89a", png[:-30], png]))
    assert sums.numpy().tolist() == [PHOTO.sum(dtype=np.int64), 0, 0, PHOTO.sum(dtype=np.int64)]
    assert [problem != b"" for problem in problems.numpy()] == [False, True, True, False]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_try_decode_image_through_a_window_gives_the_pixels_of_the_whole(
    encode, subsampling, options
):
    rng = np.random.default_rng(3)
    decode_window = tf.function(
        lambda data, window: decode.try_decode_image(data, find_window=lambda size: window),
        input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.int32)],
    )
    for height, width in ((61, 47), (16, 16), (8, 65), (33, 1)):
        pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        jpeg = encode(pixels, "JPEG", subsampling=subsampling, quality=90, **options)
        for data in (jpeg, encode(pixels.convert("CMYK"), "JPEG"), encode(pixels, "PNG")):
            whole = decode.decode_image(data).numpy()
            for _ in range(6):
                sizes = rng.integers(1, (height + 1, width + 1))
                top, left = rng.integers(0, np.array(whole.shape[:2]) - sizes + 1)
                part, problem = decode_window(data, [top, left, *sizes])
                assert problem == b""
                expected = whole[top : top + sizes[0], left : left + sizes[1]]
                np.testing.assert_array_equal(part, expected)


def test_try_decode_image_through_a_window_gets_the_size_and_refuses_as_the_whole(encode):
    sizes = []

    def find_window(size):
        sizes.append(size.numpy().tolist() if tf.executing_eagerly() else size)
        return tf.constant([0, 0, 1, 1])

    for name, (data, *_) in _bad_images(encode).items():
        expected = decode.try_decode_image(data)[1].numpy()
        part, problem = decode.try_decode_image(data, find_window=find_window)
        # What is damaged below the window is not read.
        if not expected.startswith(b"the decoder refused"):
            assert problem == expected, name
            assert part.numpy().max() == 0


def _bad_images(encode):
    """name -> (data, what the graph says, what `explain_image_problem` says)."""
    jpeg, png = encode(PHOTO, "JPEG"), encode(PHOTO, "PNG")
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    apng = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    gif, webp = encode(PHOTO, "GIF"), encode(PHOTO, "WEBP")
    agif, awebp = (
        encode(frames[0], f, save_all=True, append_images=frames[1:]) for f in ("GIF", "WEBP")
    )
    bomb = encode(PHOTO, "BMP")[:18]
    refused = "the decoder refused its data: damaged or truncated"
    flipped = png[:60] + bytes([png[60] ^ 1]) + png[61:]
    bomb_text = "at most 33554432 pixels, its header says 20000 x 20000"
    return {
        "empty": (b"", "it is empty", "it is empty"),
        "text": (b"hello, world", "starts with 68656c6c6f2c2077", "starts with 68656c6c6f2c2077"),
        "not_utf8": (b"\xfe\xfe\x80", "starts with fefe80", "starts with fefe80"),
        "html": (b"<!DOCTYPE html>", "looks like HTML", "looks like HTML"),
        "lfs": (
            b"version https://git-lfs.github.com/spec/v1",
            "git-lfs pointer",
            "git-lfs pointer",
        ),
        "jpeg_xl": (b"\xff\x0a" + bytes(130), "JPEG XL is not decoded", "JPEG XL is not decoded"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(80), "HEIC is not", "HEIC is not decoded"),
        "avif": (b"\0\0\0\x1cftypavif" + bytes(80), "AVIF is not", "AVIF is not decoded"),
        "tiff": (encode(PHOTO, "TIFF"), "TIFF is not decoded", "TIFF is not decoded"),
        "bmp_bits": (encode(Image.fromarray(PHOTO).convert("1"), "BMP"), "with 8, 24 or 32", ""),
        "bmp_cut": (encode(PHOTO, "BMP")[:-9], "the BMP ends before its pixels", ""),
        "bmp_bomb": (
            bomb + struct.pack("<ii", 20000, 20000) + encode(PHOTO, "BMP")[26:],
            "the BMP ends before its pixels",
            "",
        ),
        "gif_animated": (agif, "animated GIF is not decoded", ""),
        "gif_head": (b"GIF89a", "a GIF must have a picture", ""),
        "gif_bomb": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "fills its screen", ""),
        "gif_cut": (gif[: len(gif) // 2], refused, ""),
        "webp_head": (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "the WebP ends within its header", ""),
        "webp_cut": (webp[: len(webp) // 2], refused, ""),
        "webp_animated": (awebp, "animated WebP is not decoded", ""),
        "wav": (b"RIFF\x00\x00\x00\x00WAVEfmt ", "starts with 52494646", "starts with 52494646"),
        "png_12_bits": (
            _png(2, 1, depth=16, data=b"\0" + struct.pack(">HH", 4095, 7)),
            "multiply them by 16",
            "",
        ),
        "apng_behind_text": (
            apng[:33] + _png_chunk(b"tEXt", b"k\0" + bytes(9000)) + apng[33:],
            "animated PNG is not decoded",
            "animated PNG is not decoded",
        ),
        "apng": (apng, "animated PNG is not decoded", "animated PNG is not decoded"),
        "jpeg_cut": (jpeg[: len(jpeg) // 2], refused, "truncated: the JPEG ends"),
        "jpeg_without_end": (jpeg[:-2], refused, "truncated: the JPEG ends without"),
        "jpeg_magic_only": (jpeg[:3], "the JPEG ends before", "truncated: the JPEG ends before"),
        "jpeg_header_cut": (jpeg[:200], "the JPEG ends before", "the JPEG ends before"),
        "png_cut": (png[:-20], refused, "truncated: the PNG ends"),
        "png_flipped": (flipped, refused, "damaged: the checksum"),
        "png_magic_only": (png[:8], "must begin with a whole header", "a whole header"),
        "png_bomb": (_png(20000, 20000), bomb_text, bomb_text),
        "png_overflow": (_png(2**31 - 1, 2**31 - 1), "at most 33554432 pixels", "33554432 pixels"),
        "png_no_pixels": (_png(0, 5), "it has no pixels", "it has no pixels"),
        "jpeg_bomb": (_with_jpeg_size(jpeg, 20000, 20000), bomb_text, bomb_text),
        "scan_bomb": (_scan_bomb(encode, 500), "100 scans, it has more", "at most 100 scans"),
    }


def test_decode_image_bad_data_raises_the_rule(encode):
    for name, (data, expected, _) in _bad_images(encode).items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
            decode.decode_image(data, name=f"folder/é {name}")


def test_decode_image_bad_data_in_tf_data_raises_the_rule_and_the_name(encode):
    bad = _bad_images(encode)
    data, expected, _ = zip(*bad.values(), strict=True)
    names = [f"folder/é {name}" for name in bad]
    dataset = tf.data.Dataset.from_tensor_slices((list(data), names))
    images = iter(dataset.map(lambda encoded, name: decode.decode_image(encoded, name=name)))
    for name, reason in zip(names, expected, strict=True):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: .*{reason}"):
            next(images)
    assert next(images, None) is None


def test_explain_image_problem_says_why(encode):
    for name, (data, _, expected) in _bad_images(encode).items():
        assert expected in (decode.explain_image_problem(data) or ""), name


def test_explain_image_problem_good_image_is_none(encode):
    for name, data in _good_images(encode).items():
        assert decode.explain_image_problem(data) is None, name


def test_decode_image_unnamed_decodes_and_refuses_what_decode_image_does(encode):
    dataset = tf.data.Dataset.from_tensor_slices(list(_good_images(encode).values()))
    dataset = dataset.map(lambda d: (decode.decode_image_unnamed(d), decode.decode_image(d)))
    for unnamed, named in dataset:
        np.testing.assert_array_equal(unnamed, named)
    bad = _bad_images(encode)
    dataset = tf.data.Dataset.from_tensor_slices([data for data, *_ in bad.values()])
    images = iter(dataset.map(decode.decode_image_unnamed))
    for _ in bad:
        with pytest.raises(tf.errors.InvalidArgumentError):
            next(images)


def test_decode_image_own_limits_are_held(encode):
    png, jpeg = encode(PHOTO, "PNG"), encode(PHOTO, "JPEG", progressive=True)
    num_pixels = PHOTO.shape[0] * PHOTO.shape[1]
    decode.decode_image(png, max_pixels=num_pixels, max_bytes=len(png))
    for options, expected in (
        ({"max_pixels": num_pixels - 1}, f"at most {num_pixels - 1} pixels"),
        ({"max_bytes": len(png) - 1}, f"at most {len(png) - 1} bytes, it has {len(png)}"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
            decode.decode_image(png, **options)
        assert expected in decode.explain_image_problem(png, **options)
    num_scans = jpeg.count(b"\xff\xda")
    decode.decode_image(jpeg, max_scans=num_scans)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"at most {num_scans - 1} scans"):
        decode.decode_image(jpeg, max_scans=num_scans - 1)


def test_try_decode_image_mutants_never_raise(encode):
    seeds = [*_good_images(encode).values(), *(bad for bad, *_ in _bad_images(encode).values())]
    seeds = [seed for seed in seeds if seed]
    rng = np.random.default_rng(1)

    def mutants():
        for k in range(3000):
            data = bytearray(seeds[k % len(seeds)])
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(min(len(data), 200 if k % 2 else len(data)))] = rng.integers(256)
            yield bytes(data[: rng.integers(1, len(data) + 1)] if k % 3 == 0 else data)

    dataset = tf.data.Dataset.from_generator(mutants, output_signature=tf.TensorSpec((), tf.string))
    dataset = dataset.map(decode.try_decode_image, num_parallel_calls=2)
    problems = [problem.numpy() for _, problem in dataset]
    assert len(problems) == 3000
    # A control: some mutants are still good, and every message can be shown.
    assert 0 < sum(problem == b"" for problem in problems) < 3000
    assert all(problem.decode().isprintable() for problem in problems)
