"""The table of docs/analysis.md: attention distance of a ViT and of a hybrid that are trained here.

    python tools/attention_distance.py runs/distance [--steps=700]

Trains a ViT-mini/4 and a hybrid with the same encoder, behind a root and one unit of a ResNet, on
Fashion-MNIST in the same way: both have 7 x 7 tokens of 4 x 4 pixels.  Then measures the mean
attention distance of each head over test images (Figures 7, right, and 11 of arXiv:2010.11929v2).
A run that is there is not repeated.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from absl import logging

import keras_vit
from keras_vit import analysis
from keras_vit.data import pipeline
from keras_vit.files import write_whole

DATASET = "fashion_mnist"
PACKAGED = "fashion_mnist/ViT-mini_4"
# Name of the row -> what differs from ViT-mini/4.
MODELS = {
    "ViT-mini/4": {"model": "ViT-mini/4"},
    "hybrid, stem of stride 4": {"model": "R50+ViT-B/16", "patch_size": 1, "stage_depths": (1,)},
}
ENCODER = ("hidden_size", "mlp_dim", "num_heads", "depth", "gelu", "representation_size", "pooling")


def main():
    """Trains what is not there and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=700, help="of each training")
    parser.add_argument("--num_images", type=int, default=128, help="from the test split")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    info = pipeline.resolve(DATASET)
    rows = []
    for name, fields in MODELS.items():
        folder = arguments.workdir / fields["model"].replace("/", "_")
        if not (folder / "model.keras").exists():
            train(info, folder, arguments.steps, fields)
        accuracy = json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
        model = keras_vit.from_pretrained(folder)
        rows += measure(model, info, arguments.num_images, f"{name}, {accuracy:.1%}")
    packaged = keras_vit.from_pretrained(PACKAGED)
    rows += measure(packaged, info, arguments.num_images, PACKAGED)
    write_whole(arguments.workdir / "table.json", json.dumps(rows, indent=1))
    print("| model | block | distance of each head, px | attention of all alike, px |")
    print("|---|---|---|---|")
    for name, block, heads, uniform in rows:
        print(f"| {name} | {block} | {', '.join(f'{d:.1f}' for d in heads)} | {uniform:.1f} |")


def train(info, folder, steps, fields):
    """Trains one model from scratch: a fine-tuning of weights that are random."""
    mini = keras_vit.create_model("ViT-mini/4").config
    encoder = {name: getattr(mini, name) for name in ENCODER}
    keras.utils.set_random_seed(0)
    fields = {**encoder, "image_size": 28, "num_classes": info.num_classes, **fields}
    model = keras_vit.create_model(**fields)
    folder.mkdir(parents=True, exist_ok=True)
    start = folder.with_name(f"{folder.name}_start.keras")
    model.save(start)
    keras_vit.finetune(
        start,
        info,
        folder,
        recipe="digits_finetune",
        steps=steps,
        image_size=28,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=100,
        label_smoothing=0.0,
        dropout=0.0,
        augmentation="flip",
        report_steps=steps,
        report=False,
    )


def measure(model, info, num_images, name):
    """Rows of (name, block, px of each head from near to far, px of uniform attention)."""
    batches = pipeline.evaluation_dataset(info, "test", model.preprocessing, batch_size=num_images)
    images = next(iter(batches))[0].numpy()
    distances = analysis.attention_distance(model, images, renormalize=True).mean(axis=1)  # (L, k)
    uniform = uniform_distance(model.config)
    return [
        (name, block, sorted(float(d) for d in heads), uniform)
        for block, heads in enumerate(distances)
    ]


def uniform_distance(config):
    """Mean distance in pixels between two of the tokens of a model."""
    pitch = np.array(config.patch_size) * getattr(config, "stride", 1)
    places = np.stack(np.meshgrid(*map(np.arange, config.grid), indexing="ij"), -1)
    places = places.reshape(-1, 2) * pitch
    return float(np.linalg.norm(places[:, None] - places, axis=-1).mean())


if __name__ == "__main__":
    main()
