"""Tests of data sets for trainings that need no classes."""

import numpy as np
import pytest
from PIL import Image

from keras_vit.data.catalog.unlabelled import UNLABELLED, resolve_images


def write_images(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_class_folders_without_splits_give_all_their_images(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 20)
    info = resolve_images(tmp_path)
    assert dict(info.split_sizes) == {"train": 40}
    assert info.class_names == (UNLABELLED,)


def test_a_folder_without_classes_gives_all_its_images(tmp_path):
    write_images(tmp_path / "2025", 3)
    write_images(tmp_path / "2026" / "May", 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    assert dict(resolve_images(tmp_path).split_sizes) == {"train": 6}


def test_splits_and_classes_that_are_there_stay(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, count)
    info = resolve_images(tmp_path)
    assert info.class_names == ("cat", "dog")
    assert {split: info.split_sizes[split] for split in ("train", "test")} == {
        "train": 8,
        "test": 4,
    }


def test_arrays_need_no_labels():
    info = resolve_images(np.zeros((5, 8, 8, 3), np.uint8))
    assert dict(info.split_sizes) == {"train": 5}


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image"):
        resolve_images(tmp_path)
