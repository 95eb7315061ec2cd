"""Sixty files as they lie in people's folders: decoded like Pillow, or refused with one reason."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import keras_vit
from keras_vit.data import integrity, pipeline
from keras_vit.inference.predict import SavedModelClassifier, predict

RULE = keras_vit.Preprocessing(image_size=(16, 16), orientation="exif")
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


def _good(encode):
    """name -> bytes; 34 files."""
    photos = [_photo(k) for k in range(34)]
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
    }


def _bad(encode):
    """name -> (bytes, what the reason says); 26 files."""
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
        "fax.bmp": (encode(photos[0].convert("1"), "BMP"), "a BMP must be uncompressed"),
    }


@pytest.fixture(name="folder")
def folder_fixture(tmp_path, encode):
    """A data set of one class, with hidden files that are skipped."""
    pictures = tmp_path / "train" / "pictures"
    pictures.mkdir(parents=True)
    good, bad = _good(encode), _bad(encode)
    for name, data in good.items():
        (pictures / name).write_bytes(data)
    for name, (data, _) in bad.items():
        (pictures / name).write_bytes(data)
    for name in (".DS_Store", "._IMG_0001.JPG", ".hidden.jpg"):
        (pictures / name).write_bytes(b"\0\5\x16\7")
    (pictures / "__MACOSX").mkdir()
    (pictures / "__MACOSX" / "._IMG_0002.JPG").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    return tmp_path, good, bad


def test_each_good_file_has_pillows_pixels_and_each_bad_one_its_reason(folder):
    root, good, bad = folder
    assert len(good) + len(bad) == 60
    info, entries = integrity.resolve_without_bad(root, max_bad_fraction=0.9)
    reasons = {entry.path.rpartition("/")[2]: entry.reason for entry in entries}
    assert set(reasons) == set(bad)
    for name, (_, expected) in bad.items():
        assert expected in reasons[name], name
    batches = pipeline.evaluation_dataset(info, "train", RULE, batch_size=len(good))
    ((pixels, _, mask),) = batches
    assert mask.numpy().sum() == len(good)
    for path, ours in zip(info.source.paths("train"), pixels.numpy(), strict=True):
        data = good[path.rpartition("/")[2]]
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        expected = keras_vit.preprocess(np.asarray(image), RULE)
        np.testing.assert_array_equal(ours, expected, err_msg=path)
        np.testing.assert_array_equal(keras_vit.preprocess(path, RULE), expected)


def test_predict_gives_the_same_reasons_as_validate(folder):
    root, good, bad = folder
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, image_size=16, hidden_size=16, num_heads=2, depth=1
    )
    model.preprocessing = RULE
    files = sorted((root / "train" / "pictures").glob("[!._]*"))
    answers = {a.path.rpartition("/")[2]: a for a in predict(model, files)}
    assert len(answers) == len(good) + len(bad)
    _, entries = integrity.check(root)
    for entry in entries:
        name = entry.path.rpartition("/")[2]
        assert answers.pop(name).error == entry.reason, name
    assert all(answer.error is None for answer in answers.values())


def test_training_stops_at_each_bad_file_with_its_name(folder):
    root, good, bad = folder
    pictures = root / "train" / "pictures"
    for name in bad:
        if name != "moving.webp":
            (pictures / name).unlink()
    info = pipeline.resolve(root)
    with pytest.raises(tf.errors.InvalidArgumentError, match="moving.webp: animated WebP"):
        pipeline.training_dataset(info, "train", RULE, batch_size=4, seed=0)


@pytest.mark.parametrize("kind", ["keras", pytest.param("saved_model", marks=pytest.mark.slow)])
def test_a_folder_in_folders_has_a_row_for_each_file(folder, kind, tmp_path_factory):
    root, good, bad = folder
    inner = root / "2024" / "märz"
    (root / "train" / "pictures").rename(root / "pictures")
    inner.mkdir(parents=True)
    for k, name in enumerate(sorted(good | bad)):
        if k % 2:
            (root / "pictures" / name).rename(inner / name)
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, image_size=16, hidden_size=16, num_heads=2, depth=1
    )
    model.preprocessing = RULE
    if kind == "saved_model":
        exported = tmp_path_factory.mktemp("export")
        keras_vit.export(model, exported)
        model = SavedModelClassifier(exported)
    answers = {a.path.rpartition("/")[2]: a.error for a in predict(model, [root])}
    # What is neither named like an image nor begins like one is no image.
    others = {"notes.txt", "film.mp4", "letter.pdf", "sound.wav", "raw.dng"}
    assert set(answers) == (set(good) | set(bad)) - others
    assert {name for name, error in answers.items() if error is None} == set(good)
    for name, error in answers.items():
        assert name in good or bad[name][1] in error, name
