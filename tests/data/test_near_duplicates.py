import numpy as np
from PIL import Image

from keras_vit.data.survey import groups_of, survey
from tests.data.own_pictures import TILE, tiles, write


def test_what_looks_the_same_is_one_group_and_nothing_else(tmp_path):
    first, other = tiles("china")[100], tiles("flower")[100]
    write(tmp_path / "0.png", first)
    write(tmp_path / "1.jpg", first, quality=60)
    larger = Image.fromarray(first).resize((3 * TILE, 2 * TILE), Image.Resampling.BICUBIC)
    write(tmp_path / "2.png", larger)
    write(tmp_path / "3.png", np.clip(first * 1.02, 0, 255).astype(np.uint8))
    write(tmp_path / "4.png", other)
    write(tmp_path / "5.png", np.zeros((9, 9, 3), np.uint8))
    write(tmp_path / "6.png", np.full((9, 9, 3), 200, np.uint8))
    (tmp_path / "7.png").write_bytes(b"none")
    (tmp_path / "8.png").write_bytes(b"none")
    (tmp_path / "9.png").write_bytes(b"")
    pictures = survey([tmp_path / f"{i}.png" if i != 1 else tmp_path / "1.jpg" for i in range(10)])
    assert groups_of(pictures).tolist() == [0, 0, 0, 0, 4, 5, 6, 7, 7, 9]
    assert [picture.is_constant for picture in pictures] == 5 * [False] + 2 * [True] + 3 * [False]
    assert "starts with 6e6f6e65" in pictures[7].problem


def test_the_tiles_of_a_photograph_are_not_taken_for_each_other(tmp_path):
    found = tiles("flower")
    for i, tile in enumerate(found):
        write(tmp_path / f"{i}.png", tile)
    groups = groups_of(survey([tmp_path / f"{i}.png" for i in range(len(found))]))
    assert len(set(groups)) > 0.95 * len(found)
