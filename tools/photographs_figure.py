"""The picture of photographs in docs/analysis.md: what the packaged model attends to.

    python tools/photographs_figure.py docs/images/photographs_attention.png

Loads the packaged ViT-mini/4, which was trained on Fashion-MNIST, for images of 112 px (28 x 28
tokens; its position embeddings are interpolated) and draws attention rollout over grey photographs
that come with scikit-image and scikit-learn.
"""

import argparse
import io
import pathlib

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

import keras_vit
from keras_vit import analysis
from keras_vit.analysis import plots
from keras_vit.files import write_whole

PACKAGED = "fashion_mnist/ViT-mini_4"
SIZE = 112  # pixels


def photographs():
    """Square grey crops of photographs: name -> `(SIZE, SIZE, 1)` uint8."""
    china, flower = sklearn.datasets.load_sample_images().images
    found = {
        "astronaut": skimage.data.astronaut(),
        "camera": skimage.data.camera(),
        "cat": skimage.data.chelsea(),
        "coffee": skimage.data.coffee(),
        "flower": flower,
        "china": china,
    }
    return {name: square(pixels) for name, pixels in found.items()}


def square(pixels):
    """The central square of a photograph, grey, at `SIZE` pixels."""
    image = Image.fromarray(pixels).convert("L")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.LANCZOS)
    return np.asarray(image)[..., np.newaxis]


def main():
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=pathlib.Path, help="PNG file")
    arguments = parser.parse_args()
    model = keras_vit.from_pretrained(PACKAGED, image_size=SIZE)
    pictures = photographs()
    pixels = np.stack(list(pictures.values()))
    images = keras_vit.preprocess(list(pixels), model)
    found = analysis.analyze(model, images)
    rgb = np.repeat(pixels, 3, axis=-1)
    figure = plots.rollout_figure(rgb, found.rollout, list(pictures), pairs=3)
    shown = Image.open(io.BytesIO(plots.to_png(figure))).convert("RGB").quantize(96)
    data = io.BytesIO()
    shown.save(data, "PNG", optimize=True)
    write_whole(arguments.output, data.getvalue())


if __name__ == "__main__":
    main()
