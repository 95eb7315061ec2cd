"""A small folder of images with masks: colored shapes on grey noise."""

import json

import numpy as np
from PIL import Image

CLASSES = ("ground", "box", "bar")
COLORS = {"ground": [0, 0, 0], "box": [200, 10, 10], "bar": [10, 10, 200], "void": [255, 255, 255]}


def picture(rng, height, width):
    """uint8 (H, W, 3) and uint8 (H, W): two shapes, and a border that is ignored."""
    image = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    image[top : top + 6, left : left + 6] = [230, 30, 30]
    mask[top : top + 6, left : left + 6] = 1
    image[-4:, 2:-2] = [30, 30, 230]
    mask[-4:, 2:-2] = 2
    mask[:1] = 255
    return image, mask


def make(
    root, sizes=((16, 16), (19, 27), (24, 16)), splits=("train", "validation", "test"), colors=False
):
    """Writes the folder; returns it.

    Args:
        root: `pathlib.Path`.
        sizes: (height, width) of the images of each split.
        splits: Names.
        colors: Whether masks are colors, with a table.
    """
    rng = np.random.default_rng(0)
    palette = np.zeros((256, 3), np.uint8)
    for value, name in enumerate(CLASSES):
        palette[value] = COLORS[name]
    palette[255] = COLORS["void"]
    for split in splits:
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            image, mask = picture(rng, height, width)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            saved = palette[mask] if colors else mask
            Image.fromarray(saved).save(root / split / "masks" / f"{number}.png")
    if colors:
        (root / "classes.json").write_text(json.dumps(COLORS))
    else:
        (root / "classes.txt").write_text("\n".join(CLASSES))
    return root
