"""The table of clothes on photographs: segmentation with and without a pre-trained backbone.

    python tools/segmentation_table.py runs/clothes --scale=full --picture=clothes.png

Makes a data set whose masks are known: clothes of Fashion-MNIST, of ten classes, pasted in colors
and sizes of chance on parts of scikit-image's photographs, over each other too; a line of one pixel
around each is ignored.  Clothes and photographs of the splits differ.  Then it trains both decoders
on a pre-trained and on a random backbone, with several seeds, and prints mean IoU on the test
split.  A run that is finished is not repeated.  The picture is of the pre-trained linear decoder.
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image

import keras_vit
from keras_vit.data import pipeline
from keras_vit.data.segmenter import Segmenter
from keras_vit.files import write_whole

SIDE = 128
PHOTOGRAPHS = {
    "train": ("astronaut", "coffee", "rocket", "ihc"),
    "validation": ("chelsea",),
    "test": ("motorcycle_left", "retina"),
}
CLOTHES = {"train": "train", "validation": "validation", "test": "test"}
BACKGROUND = "background"
IGNORE = 255
_VISIBLE = 40  # of 255, from which a pixel belongs to the cloth
# --scale -> (images of the splits, steps, seeds, pixels of a window)
SCALES = {
    "tiny": ((8, 4, 4), 4, 1, SIDE),
    "small": ((500, 20, 60), 150, 3, 64),
    "full": ((2000, 100, 300), 2000, 3, SIDE),
}
_COLORS = ((60, 60, 60), *((int(25 * k), 230 - 20 * k, (97 * k) % 256) for k in range(1, 11)))


def photograph(name):
    """uint8 (H, W, 3) of a photograph that comes with scikit-image."""
    import skimage.data

    folder = pathlib.Path(skimage.data.__file__).parent
    (path,) = [path for path in folder.iterdir() if path.stem == name]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def compose(rng, photo, clothes, labels):
    """One picture and its mask.

    Args:
        rng: `numpy.random.Generator`, the only source of randomness.
        photo: uint8 (H, W, 3), of at least `SIDE` pixels a side.
        clothes: uint8 (n, 28, 28), in [0, 255].
        labels: Integers (n,) in [0, 10).

    Returns:
        `(image, mask)`: uint8 (SIDE, SIDE, 3) and uint8 (SIDE, SIDE), 0 for the photograph, 1 + the
        label for a cloth, 255 for the lines around clothes.
    """
    top = rng.integers(0, photo.shape[0] - SIDE + 1)
    left = rng.integers(0, photo.shape[1] - SIDE + 1)
    image = photo[top : top + SIDE, left : left + SIDE].astype(np.float32)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for index in rng.integers(0, len(clothes), rng.integers(2, 5)):
        side = int(rng.integers(32, 64))
        cloth = Image.fromarray(clothes[index]).resize((side, side), Image.Resampling.BILINEAR)
        values = np.asarray(cloth, np.float32)
        y, x = rng.integers(0, SIDE - side + 1, 2)
        inside = values >= _VISIBLE
        around = _grown(inside) & ~_shrunk(inside)
        color = rng.uniform(0.4, 1.0, 3)
        part, labelled = image[y : y + side, x : x + side], mask[y : y + side, x : x + side]
        part[inside] = values[inside, None] * color
        labelled[inside] = 1 + labels[index]
        labelled[around] = IGNORE
    return np.clip(np.round(image), 0, 255).astype(np.uint8), mask


def _grown(inside):
    """What lies in a region or beside it, up, down, left or right."""
    padded = np.pad(inside, 1)
    return inside | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _shrunk(inside):
    return ~_grown(~inside)


def make_data(folder, info, sizes):
    """Writes the data set, unless it is there.

    Args:
        folder: `pathlib.Path` of it.
        info: `DatasetInfo` of Fashion-MNIST.
        sizes: Number of images of train, validation and test.
    """
    done = folder / "classes.txt"
    if done.is_file():
        return
    for number, (split, size) in enumerate(zip(PHOTOGRAPHS, sizes, strict=True)):
        rng = np.random.default_rng([0, number])
        clothes, labels = read_clothes(info, CLOTHES[split])
        photos = [photograph(name) for name in PHOTOGRAPHS[split]]
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(size):
            image, mask = compose(rng, photos[index % len(photos)], clothes, labels)
            Image.fromarray(image).save(folder / split / "images" / f"{index:05d}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{index:05d}.png")
    write_whole(done, "\n".join([BACKGROUND, *info.class_names]) + "\n")


def read_clothes(info, split, limit=2000):
    """uint8 (n, 28, 28) and integers (n,), the first of a split."""
    rule = keras_vit.Preprocessing(image_size=(28, 28), value_range=(0, 255), channels=1)
    batches = pipeline.evaluation_dataset(info, split, rule, batch_size=500)
    images, labels = [], []
    for image, label, mask in batches.take(limit // 500).as_numpy_iterator():
        images.append(np.round(image[mask > 0, ..., 0]).astype(np.uint8))
        labels.append(label[mask > 0])
    return np.concatenate(images), np.concatenate(labels)


def random_backbone(source, path):
    """Writes a model of a source's architecture with random weights; returns the path."""
    model = keras_vit.from_pretrained(source)
    config = dataclasses.replace(model.config, num_classes=0)
    type(model)(config, preprocessing=model.preprocessing).save(path)
    return path


def draw(model, folder, path, number=4):
    """Writes a picture: a row for each image of the test split, its mask and its prediction."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(_COLORS)] = _COLORS
    names = sorted((folder / "test" / "images").iterdir())[:number]
    images = [np.asarray(Image.open(name)) for name in names]
    masks = [np.asarray(Image.open(folder / "test" / "masks" / name.name)) for name in names]
    found = Segmenter(model, 16).masks(images)
    rows = [
        np.hstack([image, colors[mask], colors[prediction]])
        for image, mask, prediction in zip(images, masks, found, strict=True)
    ]
    Image.fromarray(np.vstack(rows)).quantize(128).save(path, optimize=True)


def main(arguments=None):
    """Does what is not there and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path, help="folder of the data and the runs")
    parser.add_argument("--model", default="fashion_mnist/ViT-mini_4", help="the pre-trained one")
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--picture", type=pathlib.Path, help="PNG of four images with their masks")
    parser.add_argument("--data_dir", help="where TFDS keeps its data sets")
    parser.add_argument("--download", action="store_true", help="if Debian's package is not there")
    given = parser.parse_args(arguments)
    sizes, steps, num_seeds, window = SCALES[given.scale]
    workdir = given.workdir / given.scale
    workdir.mkdir(parents=True, exist_ok=True)
    info = pipeline.resolve("fashion_mnist", given.data_dir, download=given.download)
    make_data(workdir / "data", info, sizes)
    sources = {
        "pre-trained": given.model,
        "random": random_backbone(given.model, workdir / "random.keras"),
    }
    found = {}
    for seed in range(num_seeds):  # outermost: an early stop leaves whole rows of fewer seeds
        for backbone, source in sources.items():
            for decoder in ("linear", "mask"):
                folder = workdir / f"{backbone}_{decoder}_{seed}"
                if not (folder / "metrics.json").is_file():
                    keras_vit.finetune(
                        source,
                        workdir / "data",
                        folder,
                        recipe="segmentation",
                        decoder=decoder,
                        image_size=window,
                        resize_to=SIDE,
                        steps=steps,
                        learning_rate=1e-3,
                        warmup_steps=steps // 20,
                        report_steps=steps,
                        seed=seed,
                    )
                metrics = json.loads((folder / "metrics.json").read_text())["test"]
                found.setdefault((backbone, decoder), []).append(metrics)
                print(backbone, decoder, seed, metrics["mean_iou"], flush=True)
    print("| backbone | decoder | mean IoU | pixel accuracy | seeds |\n|---|---|---|---|---|")
    for names, seeds in found.items():
        cells = []
        for key in ("mean_iou", "pixel_accuracy"):
            values = [100 * metrics[key] for metrics in seeds]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values):.1f}")
        print(f"| {names[0]} | {names[1]} | {cells[0]} | {cells[1]} | {len(seeds)} |")
    if given.picture:
        model = keras_vit.from_pretrained(workdir / "pre-trained_linear_0")
        draw(model, workdir / "data", given.picture)


if __name__ == "__main__":
    main()
