"""Pictures as a person has them: a folder for each class, and no split."""

import pathlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

TILE = 40


def tiles(name):
    """Tiles of a photograph, uint8 (n, 40, 40, 3)."""
    pixels = load_sample_image(f"{name}.jpg")
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    cut = pixels[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(-1, TILE, TILE, 3)


def write(path, pixels, **options):
    """Writes a picture, and the folders to it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def write_folder(root, count=30):
    """Writes `count` tiles of each of two photographs, from all over them."""
    for name in ("china", "flower"):
        found = tiles(name)
        for i in np.linspace(0, len(found) - 1, count).astype(int):
            write(root / name / f"{i}.png", found[i])
    return root
