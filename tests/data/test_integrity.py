import json
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.data import examples, integrity, pipeline
from keras_vit.data.catalog import resolve as datasets
from keras_vit.errors import BadDataError
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(8, 8))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bad_files(encode):
    """name -> bytes that are no image that can be decoded, and how the reason is told."""
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    jpeg, png = encode(photo, "JPEG"), encode(photo, "PNG")
    progressive = encode(photo, "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    return {
        "empty": (b"", "empty"),
        "text": (b"hello", "starts with 68656c6c6f"),
        "html": (b"<html>not found</html>", "HTML"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "gif": (encode(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]), "GIF"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(80), "HEIC"),
        "webp": (encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]), "WebP"),
        "tiff": (encode(photo, "TIFF"), "TIFF"),
        "jxl": (b"\xff\x0a" + bytes(100), "JPEG XL"),
        "jxl_container": (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        "jp2": (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        "apng": (encode(photo, "PNG", save_all=True, append_images=[photo.rotate(90)]), "animated"),
        "jpeg_cut": (jpeg[: len(jpeg) // 2], "truncated"),
        "jpeg_end": (jpeg[:-2], "truncated"),
        "jpeg_head": (jpeg[:30], "truncated"),
        "png_cut": (png[:-20], "truncated"),
        "png_flipped": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "damaged"),
        "png_head": (png[:20], "IHDR"),
        "png_bomb": (png[:8] + header + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""), "pixels"),
        "scan_bomb": (progressive[:-2] + scan * 200 + b"\xff\xd9", "scans"),
        "npz": (b"PK\x03\x04" + bytes(50), "looks like a ZIP archive"),
        "zeros": (bytes(100), "starts with 0000"),
    }


@pytest.fixture
def mixed_folder(tmp_path, encode):
    """300 good images in 3 classes, and 30 bad entries of as many kinds."""
    root = tmp_path / "mixed"
    rng = np.random.default_rng(0)
    for name in "abc":
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for k in range(100):
            pixels = np.full((12, 10, 3), rng.integers(256), np.uint8)
            (folder / f"{k:03d}.jpg").write_bytes(encode(pixels, ("PNG", "JPEG")[k % 2]))
    expected = {}
    for k, (name, (data, reason)) in enumerate(_bad_files(encode).items()):
        path = root / "train" / "abc"[k % 3] / f"{name}.jpg"
        path.write_bytes(data)
        expected[str(path)] = reason
    folder = root / "train" / "a"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "escape.jpg").symlink_to("/etc/passwd")
    (folder / "subfolder.jpg").mkdir()
    (folder / "link_to_class.jpg").symlink_to("../b")
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb"):
        pass
    (root / "train" / "loose.txt").write_text("x")
    expected |= {
        str(folder / "pipe.jpg"): "special file",
        str(folder / "loop.jpg"): "symbolic links",
        str(folder / "broken.jpg"): "No such file",
        str(folder / "escape.jpg"): "may not leave",
        str(folder / "subfolder.jpg"): "a folder",
        str(folder / "link_to_class.jpg"): "a folder",
        str(folder / "\\xff.jpg"): "UTF-8",
        str(root / "train" / "loose.txt"): "class folders only",
    }
    assert len(expected) == 30
    return root, expected


def test_check_lists_every_bad_entry_with_its_reason(mixed_folder):
    root, expected = mixed_folder
    info, entries = integrity.check(root)
    assert {entry.path for entry in entries} == set(expected)
    for entry in entries:
        assert expected[entry.path] in entry.reason, entry
        assert entry.split == "train"
        assert "\n" not in str(entry)
    assert info.num_examples("train") == 300 + 22


@pytest.mark.parametrize("reads_again", [False, True])
def test_training_stops_at_a_bad_image_by_default(mixed_folder, monkeypatch, reads_again):
    root, _ = mixed_folder
    with pytest.raises((ValueError, OSError), match="mixed/train"):
        datasets.resolve(root)  # the walk
    for path in (root / "train").glob("a/*"):
        if not path.name[0].isdigit():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    os.unlink(os.fsencode(root) + b"/train/a/\xff.jpg") if os.path.exists(
        os.fsencode(root) + b"/train/a/\xff.jpg"
    ) else None
    (root / "train" / "loose.txt").unlink()
    info = datasets.resolve(root)
    if reads_again:
        monkeypatch.setattr(examples, "MAX_PIXEL_BYTES", 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="mixed/train/[bc]/[a-z_0-9]+.jpg: "):
        list(pipeline.training_dataset(info, "train", RULE, batch_size=8, seed=0).take(50))


def test_resolve_without_bad_leaves_out_counts_and_lists(mixed_folder, tmp_path):
    root, expected = mixed_folder
    report = tmp_path / "skipped.jsonl"
    info, entries = integrity.resolve_without_bad(root, max_bad_fraction=0.1, report=report)
    assert len(entries) == 30
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {line["path"] for line in lines} == set(expected)
    assert all(set(line) == {"split", "path", "index", "reason"} for line in lines)
    assert info.num_examples("train") == 300
    assert info.class_names == ("a", "b", "c")
    batches = pipeline.training_dataset(info, "train", RULE, batch_size=50, seed=0)
    labels = np.concatenate([labels for _, labels in batches.take(6).as_numpy_iterator()])
    assert np.bincount(labels).tolist() == [100, 100, 100]
    evaluation = pipeline.evaluation_dataset(info, "train", RULE, batch_size=16)
    assert sum(mask.sum() for *_, mask in evaluation.as_numpy_iterator()) == 300


def test_resolve_without_bad_again_decodes_only_what_has_changed(mixed_folder, monkeypatch):
    root, expected = mixed_folder
    report = root.parent / "skipped.jsonl"
    seen = []

    def count(info, split, progress=None):
        seen.append(split)
        return original(info, split, progress)

    original = integrity.bad_examples
    monkeypatch.setattr(integrity, "bad_examples", count)

    def resolve():
        return integrity.resolve_without_bad(root, max_bad_fraction=0.1, report=report)

    first = resolve()
    lines = report.read_text()
    assert resolve() == first
    assert seen == ["train"]
    assert report.read_text() == lines
    (root / "train" / "a" / "000.jpg").write_bytes(b"cut")
    info, entries = resolve()
    assert seen == ["train"] * 2
    assert (info.num_examples("train"), len(entries)) == (299, 31)
    report.write_text(lines)  # not what was found then
    assert resolve() == (info, entries)
    assert seen == ["train"] * 3


def test_resolve_without_bad_checks_the_splits_that_a_function_names(image_folder):
    (image_folder / "test" / "dog" / "0.jpg").write_bytes(b"cut")
    info, entries = integrity.resolve_without_bad(image_folder, splits=lambda info: ["train"])
    assert not entries
    with pytest.raises(BadDataError, match="'test'"):
        integrity.resolve_without_bad(image_folder, splits=lambda info: list(info.split_sizes))


def test_resolve_without_bad_above_the_limit_raises(mixed_folder, tmp_path):
    root, _ = mixed_folder
    report = tmp_path / "skipped.jsonl"
    for limit in (0.0, 0.09):
        with pytest.raises(BadDataError, match="30 of 330 entries .*; all are in"):
            integrity.resolve_without_bad(root, max_bad_fraction=limit, report=report)
        assert len(report.read_text().splitlines()) == 30
    with pytest.raises(ValueError, match=r"`max_bad_fraction` must be in \[0, 1\). Received: 1"):
        integrity.resolve_without_bad(root, max_bad_fraction=1)


def test_resolve_without_bad_wrong_layout_raises_at_any_limit(image_folder):
    (image_folder / "train" / "ant").mkdir()
    with pytest.raises(BadDataError, match="A class must have images"):
        integrity.resolve_without_bad(image_folder, max_bad_fraction=0.9)
    (image_folder / "train" / "ant").rmdir()
    for path in (image_folder / "test" / "dog").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(BadDataError, match="no image of class 'dog' in 'test'"):
        integrity.resolve_without_bad(image_folder, max_bad_fraction=0.9)


def test_resolve_without_bad_good_data_set_is_as_resolved(image_folder):
    info, entries = integrity.resolve_without_bad(image_folder)
    assert (info, entries) == (datasets.resolve(image_folder), [])


def _damaged(info, indices):
    """The data set, where some records of `train` are cut in their middle."""
    source = info.source

    class Damaged(type(source)):
        def _as_dataset(self, split, features):
            def damage(index, example):
                if self.image_key in example:
                    image = example[self.image_key]
                    cut = tf.strings.substr(image, 0, 40)
                    is_bad = tf.reduce_any(tf.equal(index, indices))
                    example = {**example, self.image_key: tf.where(is_bad, cut, image)}
                return example

            return super()._as_dataset(split, features).enumerate().map(damage)

    import dataclasses

    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    return dataclasses.replace(info, source=Damaged(**fields))


def test_resolve_without_bad_records_are_left_out_by_their_place(upstream):
    damaged = _damaged(upstream, [3, 100])
    info, entries = integrity.resolve_without_bad(damaged, splits=["train"], max_bad_fraction=0.1)
    assert [(entry.split, entry.index) for entry in entries] == [("train", 3), ("train", 100)]
    assert str(entries[0]).startswith("train example 3: truncated: the PNG ends")
    assert info.num_examples("train") == 538 - 2
    good = list(info.source.stream("train").as_numpy_iterator())
    whole = list(upstream.source.stream("train").as_numpy_iterator())
    assert good == whole[:3] + whole[4:100] + whole[101:]
    assert len(info.source.labels("train")) == 536


def test_check_reports_progress(image_folder):
    import contextlib

    seen = []

    @contextlib.contextmanager
    def progress(total):
        seen.append(total)
        yield lambda: seen.append(1)

    integrity.check(image_folder, progress=progress)
    assert seen == [12] + [1] * 12


def test_label_problem_names_labels_that_are_no_class():
    assert integrity._label_problem(2, 3) is None
    assert integrity._label_problem([1, -1], 3) is None
    assert integrity._label_problem(-1, 3) == "label -1 is not in [0, 3)"
    assert integrity._label_problem([3, -1], 3) == "label [3, -1] is not in [0, 3)"
