"""The table of docs/evaluation.md: a ViT that is pre-trained here, on Fashion-MNIST's test images.

    python tools/fashion_mnist_table.py runs/fashion            # a source of one's own: --model=...

Pre-trains a small ViT on Fashion-MNIST's 54,000 training images (or takes the file of `--model`),
then measures on the 10,000 test images: the model itself, few-shot, nearest neighbours and a linear
classifier on its features, and fine-tuning with few and with all images.  Every part is a run that
is not repeated when it is there; the table and what each part took go to `table.json` and stdout.
"""

import argparse
import json
import pathlib
import time

from absl import logging

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluators.fewshot import FewShot
from keras_vit.evaluators.knn import KNN
from keras_vit.evaluators.linear_probe import LinearProbe
from keras_vit.files import write_whole

DATASET = "fashion_mnist"


def main():
    """Does what is not there and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--model", help="source of a pre-trained model, instead of training one")
    parser.add_argument("--epochs", type=float, default=10, help="of the pre-training")
    parser.add_argument("--finetune_steps", type=int, default=1000)
    parser.add_argument("--data_dir", help="where TFDS keeps its data sets")
    parser.add_argument("--download", action="store_true", help="if Debian's package is not there")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    found = {"data_dir": arguments.data_dir, "download": arguments.download}
    info = pipeline.resolve(DATASET, **found)
    workdir = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    table = Table(workdir / "table.json")

    source = arguments.model
    if source is None:
        source = workdir / "pretrain"
        table.add("pre-training, its own head", pretrain, info, source, arguments.epochs)
    model = keras_vit.from_pretrained(source)
    options = {"cache_dir": workdir / "features", "progress": True}
    for evaluator in (
        FewShot(info, shots=(1, 5, 10, 25), preprocessing="model", **options),
        KNN(info, k=(10, 20), **options),
        LinearProbe(info, steps=2000, batch_size=1024, **options),
    ):
        table.add(evaluator.name, evaluator.run, model)
    for shots in (25, None):
        name = "fine-tuning, " + ("all images" if shots is None else f"{shots} images of a class")
        folder = workdir / f"finetune_{shots or 'all'}"
        steps = 200 if shots else arguments.finetune_steps
        table.add(name, finetune, source, info, folder, shots, steps)
    table.print()


class Table:
    """What was measured, kept after each part."""

    def __init__(self, path):
        self.path = path
        self.parts = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name, measure, *arguments):
        """Measures a part that is not there."""
        if name in self.parts:
            return
        start = time.monotonic()
        numbers = measure(*arguments)
        self.parts[name] = {"numbers": numbers, "seconds": round(time.monotonic() - start, 1)}
        write_whole(self.path, json.dumps(self.parts, indent=1))

    def print(self):
        """Prints a Markdown table."""
        print("| measured | number | seconds |\n|---|---|---|")
        for name, part in self.parts.items():
            for key, value in part["numbers"].items():
                if "/seed" not in key:
                    print(f"| {name}: {key} | {value:.4g} | {part['seconds']} |")


def pretrain(info, folder, epochs):
    """Pre-trains on the training split."""
    result = keras_vit.pretrain(
        info,
        folder,
        recipe="digits_pretrain",
        epochs=epochs,
        image_size=28,
        batch_size=256,
        learning_rate=2e-3,
        warmup_steps=100,
        augmentation="flip",
        model="ViT-mini/4",
        # All that is its own, in the place of the recipe's still smaller model.
        **dict.fromkeys(("patch_size", "hidden_size", "mlp_dim", "num_heads", "depth")),
    )
    return {"accuracy": result.metrics["test"]["accuracy"]}


def finetune(source, info, folder, shots, steps):
    """Fine-tunes on the training split, or on so many images of each class."""
    result = keras_vit.finetune(
        source,
        info,
        folder,
        recipe="digits_finetune",
        shots=shots,
        steps=steps,
        image_size=28,
        batch_size=128,
        learning_rate=5e-4,
        augmentation="none",
    )
    return {"accuracy": result.metrics["test"]["accuracy"]}


if __name__ == "__main__":
    main()
