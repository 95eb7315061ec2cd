"""The pictures of tools/segmentation_table.py: masks that fit what was pasted."""

import importlib.util
import pathlib

import numpy as np

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "segmentation_table.py"


def test_a_mask_says_where_clothes_were_pasted():
    spec = importlib.util.spec_from_file_location("segmentation_table", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    clothes = np.zeros((2, 28, 28), np.uint8)
    clothes[0, 4:24, 4:24] = 255
    clothes[1, 8:20, 2:26] = 255
    photo = np.full((140, 150, 3), 7, np.uint8)
    image, mask = tool.compose(np.random.default_rng(0), photo, clothes, np.array([3, 9]))
    again = tool.compose(np.random.default_rng(0), photo, clothes, np.array([3, 9]))
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert image.shape == (128, 128, 3)
    assert set(np.unique(mask)) <= {0, 4, 10, 255}
    pasted = (image != 7).any(-1)
    assert pasted[(mask > 0) & (mask < 255)].all()
    assert not pasted[mask == 0].any()
    assert (mask == 255).any()
