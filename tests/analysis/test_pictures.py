"""Photographs are read as evaluation reads them, and shown as they were."""

import numpy as np
import PIL.Image
import pytest

from keras_vit.analysis.pictures import read_photographs, to_pixels
from keras_vit.models import Preprocessing

PREPROCESSINGS = [
    Preprocessing(image_size=(8, 12)),
    Preprocessing(
        image_size=(8, 12), value_range=(0, 1), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    ),
]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=["range", "mean"])
def test_pixels_come_back(tmp_path, preprocessing):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 8, 12, 3)).astype("uint8")
    for i, image in enumerate(pixels):
        PIL.Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = read_photographs([tmp_path], preprocessing)
    assert found.names == tuple(str(tmp_path / f"{i}.png") for i in range(3))
    np.testing.assert_array_equal(to_pixels(found.images, preprocessing), pixels)


def test_bad_files_cost_no_other_its_place(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for name in "bcd":
        PIL.Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    found = read_photographs([tmp_path], PREPROCESSINGS[0], max_images=2)
    assert len(found.names) == 2
    assert found.num_more == 1
    assert found.skipped[0][0] == str(tmp_path / "a.png")
    assert found.skipped[0][1]
    with pytest.raises(ValueError, match="at least one image must be readable.*a.png"):
        read_photographs([tmp_path / "a.png"], PREPROCESSINGS[0])


def test_other_channels_are_shown_by_the_first_ones():
    preprocessing = PREPROCESSINGS[0]
    assert to_pixels(np.full((1, 2, 2, 1), 1.0), preprocessing).tolist() == [[[[255] * 3] * 2] * 2]
    assert to_pixels(np.zeros((1, 2, 2, 6)), preprocessing).shape == (1, 2, 2, 3)
