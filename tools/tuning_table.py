"""The tables of docs/fine_tuning.md: what each way of fine-tuning trains, and what comes of it.

    python tools/tuning_table.py count                         # parameters and optimizer's memory
    python tools/tuning_table.py pretrain runs/half            # on five of Fashion-MNIST's classes
    python tools/tuning_table.py train runs/tuning --model=runs/half --dataset=fashion_mnist
    python tools/tuning_table.py time --model=runs/half        # of a step, in turns

`train` fine-tunes a model in each way and with each seed, every run in a process of its own, and
reports the accuracy on the test images, the parameters trained, the time of a step, the peak of the
process's memory, and the bytes that one more task takes to store.  A run that is there is not
repeated; the table goes to `table.json` and stdout.  `time` makes the steps of all ways in turns
and prints the shortest of each: what else the machine does slows down all of them or none.
"""

import argparse
import itertools
import json
import math
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import keras
import numpy as np

import keras_vit
from keras_vit.data import pipeline
from keras_vit.files import write_whole
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import AdamW
from keras_vit.training.tuning import rate_factors, set_tune

COUNTED = ("all", "last:2", "lora:16", "lora:4", "bias", "norms", "head")
# Row of the table -> (factor on the rate, fields of the recipe).  The fewer weights move, the
# higher is the rate that they bear; the factors were set beforehand and not searched for.
ROWS = {
    "all": (1, {"tune": "all"}),
    "all, layer decay 0.75": (1, {"tune": "all", "layer_decay": 0.75}),
    "last:2": (1, {"tune": "last:2"}),
    "lora:16": (4, {"tune": "lora:16"}),
    "lora:4": (4, {"tune": "lora:4"}),
    "head": (10, {"tune": "head"}),
}
PRETRAINED_CLASSES = 5
BATCH_SIZE = 64


def main():
    """Does what is not there and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("count", help="parameters and optimizer's memory")
    upstream = commands.add_parser("pretrain", help="a model of five of the classes")
    upstream.add_argument("workdir", type=pathlib.Path, help="folder of the run")
    upstream.add_argument("--epochs", type=float, default=4)
    upstream.add_argument("--data_dir", help="where TFDS keeps its data sets")
    timed = commands.add_parser("time", help="time of a step, in turns")
    timed.add_argument("--model", required=True, help="source of a pre-trained model")
    timed.add_argument("--rounds", type=int, default=20)
    train = commands.add_parser("train", help="accuracy, time, memory and size")
    train.add_argument("workdir", type=pathlib.Path, help="folder of the runs")
    train.add_argument("--model", required=True, help="source of a pre-trained model")
    train.add_argument("--dataset", default="fashion_mnist")
    train.add_argument("--data_dir", help="where TFDS keeps its data sets")
    train.add_argument("--steps", type=int, default=1000)
    train.add_argument("--learning_rate", type=float, default=1e-3)
    train.add_argument("--seeds", type=int, default=3)
    train.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    train.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.command == "count":
        count()
    elif arguments.command == "pretrain":
        pretrain(arguments)
    elif arguments.command == "time":
        time_steps(arguments)
    elif arguments.row:
        print(json.dumps(run(arguments)))
    else:
        measure(arguments)


def count():
    """Prints the trained parameters and the bytes of the optimizers' moments."""
    for name in ("ViT-S/16", "ViT-B/16"):
        for tune in COUNTED:
            number = num_trained(keras_vit.create_model(name, num_classes=100), {"tune": tune})
            print(f"{name} {tune:8} {number:11,} {4e-6 * number:6.1f} MB {8e-6 * number:6.1f} MB")
            keras.utils.clear_session()


def num_trained(model, fields):
    """The number of parameters that a way trains; adapts the model."""
    set_tune(model, fields["tune"])
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def pretrain(arguments):
    """Pre-trains a ViT-mini with a class token on the classes 0 to 4, 30,000 images."""
    source = pipeline.resolve("fashion_mnist", arguments.data_dir).source.builder
    data = {}
    for split in ("train", "test"):
        examples = source.as_dataset(split, batch_size=-1)
        images, labels = examples["image"].numpy(), examples["label"].numpy()
        kept = labels < PRETRAINED_CLASSES
        data[split] = (images[kept], labels[kept])
    result = keras_vit.pretrain(
        data,
        arguments.workdir,
        recipe="digits_pretrain",
        epochs=arguments.epochs,
        image_size=28,
        batch_size=256,
        learning_rate=2e-3,
        warmup_steps=100,
        augmentation="flip",
        model="ViT-mini/4",
        class_token=True,
        pooling="token",
        **dict.fromkeys(("patch_size", "hidden_size", "mlp_dim", "num_heads", "depth")),
    )
    print(json.dumps(result.metrics["test"]))


def time_steps(arguments):
    """Prints the shortest step of each row, in milliseconds."""
    rng, steps, shortest = np.random.default_rng(0), {}, {}
    for row, (_, fields) in ROWS.items():
        model = keras_vit.from_pretrained(arguments.model, num_classes=10)
        set_tune(model, fields["tune"])
        factors = rate_factors(model, fields.get("layer_decay"))
        model.compile(AdamW(1e-4, rate_factors=factors), SoftmaxCrossentropy())
        steps[row] = model.train_on_batch
        images = rng.uniform(-1, 1, (BATCH_SIZE, *model.config.image_size, 3)).astype("float32")
        labels = rng.integers(0, 10, BATCH_SIZE)
        steps[row](images, labels)
    for _, (row, step) in itertools.product(range(arguments.rounds), steps.items()):
        start = time.perf_counter()
        step(images, labels)
        shortest[row] = min(shortest.get(row, math.inf), time.perf_counter() - start)
    for row, seconds in shortest.items():
        print(f"{row:24} {1000 * seconds:6.1f} ms")


def run(arguments):
    """One fine-tuning, in this process; what was measured."""
    start = time.perf_counter()
    factor, fields = ROWS[arguments.row]
    result = keras_vit.finetune(
        arguments.model,
        arguments.dataset,
        folder_of(arguments, arguments.row, arguments.seed),
        data_dir=arguments.data_dir,
        overwrite=True,
        steps=arguments.steps,
        warmup_steps=arguments.steps // 10,
        report_steps=arguments.steps,
        batch_size=BATCH_SIZE,
        optimizer="adamw",
        learning_rate=factor * arguments.learning_rate,
        augmentation="none",
        seed=arguments.seed,
        **fields,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    adapter = result.files.get("adapter_model.safetensors")
    head = 4 * sum(math.prod(v.shape) for v in result.model.get_layer("head").weights)
    stored = head if arguments.row == "head" else (adapter or result.files["model.keras"])
    return {
        "accuracy": result.metrics["test"]["accuracy"],
        "trained": num_trained(keras_vit.from_pretrained(arguments.model, num_classes=10), fields),
        "seconds_a_step": result.metrics["seconds"] / result.metrics["steps"],
        "peak_mb": peak,
        "stored_bytes": stored if isinstance(stored, int) else stored.stat().st_size,
        "seconds": time.perf_counter() - start,
    }


def folder_of(arguments, row, seed):
    """Folder of a run."""
    name = row.replace(", ", "_").replace(" ", "_").replace(":", "_")
    return arguments.workdir / f"{name}_{seed}"


def measure(arguments):
    """Runs what is not there, each in a process of its own, and prints the table."""
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    path = arguments.workdir / "table.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    # Seeds outside, so that a table that was stopped has all rows.
    for seed, row in itertools.product(range(arguments.seeds), ROWS):
        key = f"{row}/{seed}"
        if key not in table:
            command = [sys.executable, *sys.argv, f"--row={row}", f"--seed={seed}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            table[key] = json.loads(done.stdout.splitlines()[-1])
            write_whole(path, json.dumps(table, indent=2).encode())
    report(table, arguments.seeds)


def report(table, seeds):
    """Prints the table: means over the seeds, and the standard deviation of the accuracy."""
    print("| tune | rate | accuracy, % | trained | ms a step | peak MB | kB to store |")
    print("|---|---|---|---|---|---|---|")
    for row, (factor, _) in ROWS.items():
        runs = [table[f"{row}/{seed}"] for seed in range(seeds)]
        mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        deviation = statistics.stdev(run["accuracy"] for run in runs) if seeds > 1 else 0
        print(
            f"| {row} | x {factor} | {100 * mean['accuracy']:.2f} ± {100 * deviation:.2f} "
            f"| {mean['trained']:,.0f} | {1000 * mean['seconds_a_step']:.0f} "
            f"| {mean['peak_mb']:.0f} | {mean['stored_bytes'] / 1000:.0f} |"
        )


if __name__ == "__main__":
    main()
