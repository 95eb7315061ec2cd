"""The split of a folder that has none."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_vit.data import pipeline
from keras_vit.data.catalog import folders, unsplit
from keras_vit.data.findings import findings
from tests.data.own_pictures import tiles, write, write_folder


@pytest.fixture(name="photos")
def photos_fixture(tmp_path):
    return write_folder(tmp_path / "photos")


def sides(info):
    """Name of a file -> its split."""
    return {
        path.rpartition("/")[2]: split
        for split in info.split_sizes
        for path in info.source.paths(split)
    }


def test_a_split_is_made_of_contents_and_stays_as_pictures_come_and_go(photos, tmp_path):
    assert folders.is_unsplit(photos)
    info = pipeline.resolve(str(photos))
    assert info.class_names == ("china", "flower")
    assert sum(info.split_sizes.values()) == 60
    assert set(info.split_sizes) == {"train", "validation", "test"}
    assert info.split_sizes["train"] > 36
    first = sides(info)

    shutil.copytree(photos, tmp_path / "moved")
    for path in (tmp_path / "moved" / "flower").iterdir():
        path.rename(path.with_name(f"renamed-{path.name}"))
    (tmp_path / "moved" / "china" / "0.png").unlink()
    (tmp_path / "moved" / "notes.txt").write_text("is no class")
    again = sides(pipeline.resolve(tmp_path / "moved"))
    assert {name.removeprefix("renamed-"): split for name, split in again.items()} == {
        name: split for name, split in first.items() if name != "0.png" or split != first["0.png"]
    } | ({"0.png": again["renamed-0.png"]} if "renamed-0.png" in again else {})

    path = unsplit.write_split(tmp_path, info)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].rpartition("/")[2]: row["split"] for row in rows} == first
    listed = pipeline.resolve(str(path))
    assert listed.split_sizes == info.split_sizes
    assert listed.class_names == info.class_names


def test_near_duplicates_are_on_one_side(photos):
    held_out = [
        path
        for split in ("validation", "test")
        for path in pipeline.resolve(photos).source.paths(split)
    ]
    for path in held_out:
        for quality in (60, 80):
            with Image.open(path) as image:
                image.save(path.replace(".png", f"-{quality}.jpg"), quality=quality)
    found = pipeline.resolve(photos)
    by_name = sides(found)
    for path in held_out:
        name = path.rpartition("/")[2]
        copies = {by_name[name.replace(".png", f"-{quality}.jpg")] for quality in (60, 80)}
        assert copies == {by_name[name]}
    assert not [sentence for sentence in findings(found) if "leaks" in sentence]


def test_a_small_class_keeps_its_pictures_for_training(photos):
    for i in (5, 6):
        write(photos / "rare" / f"{i}.png", tiles("flower")[i])
    info = pipeline.resolve(photos)
    rare = info.class_names.index("rare")
    assert rare in info.source.labels("train")


def test_findings_name_what_is_odd(photos, tmp_path):
    china = next((photos / "china").iterdir())
    shutil.copy(china, photos / "flower" / "copy.png")
    write(photos / "rare" / "1.png", tiles("flower")[7])
    write(photos / "rare" / "black.png", np.zeros((8, 8, 3), np.uint8))
    (photos / "rare" / "broken.jpg").write_bytes(b"<html>")
    info = pipeline.resolve(photos)
    found = findings(info)
    assert len(found) == 5
    assert "1 class has fewer than 10 pictures in 'train', too few to learn from" in found[0]
    assert "too few to measure by" in found[1]
    assert "1 picture is in the class 'china' and in the class 'flower'" in found[2]
    assert "1 picture is of one colour: " in found[3]
    assert "black.png" in found[3]
    assert "1 file is not decoded: " in found[4]
    assert "looks like HTML" in found[4]

    split = tmp_path / "split"
    for side in ("train", "test"):
        for name in ("china", "flower"):
            shutil.copytree(photos / name, split / side / name)
    told = findings(pipeline.resolve(split))
    (leak,) = (sentence for sentence in told if sentence.startswith("leaks between splits"))
    assert int(leak.split()[3]) > 50  # of 60 pictures; some tiles of the sky look the same
    assert "pictures are in 'test' and in 'train': " in leak


def test_folders_with_splits_and_others_are_read_as_ever(image_folder):
    assert not folders.is_unsplit(image_folder)
    (image_folder / "train").rename(image_folder / "training")
    with pytest.raises(ValueError, match="or a folder for each class and no split"):
        pipeline.resolve(image_folder)
