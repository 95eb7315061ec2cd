import io

import numpy as np
import pytest
from PIL import Image

from keras_vit.data.catalog import resolve


def encode(pixels, format, **options):
    """Pixels (or a Pillow image) -> the bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="session", name="encode")
def encode_fixture():
    return encode


@pytest.fixture(scope="session")
def upstream(digits_dir):
    return resolve.resolve("digits/upstream", digits_dir)


@pytest.fixture
def image_folder(tmp_path):
    """train: 5 cats and 4 dogs, test: 2 and 1; image k of a class is of one colour."""
    root = tmp_path / "pets"
    colour = 0
    for split, counts in (("train", {"cat": 5, "dog": 4}), ("test", {"cat": 2, "dog": 1})):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = np.full((6 + k, 8, 3), colour, np.uint8)
                colour += 10
                (root / split / name / f"{k}.jpg").write_bytes(encode(pixels, "PNG"))
    return root
