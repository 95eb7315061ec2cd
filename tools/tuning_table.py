"""The tables of docs/fine_tuning.md: what each way of fine-tuning trains, and what comes of it.

    python tools/tuning_table.py count                         # parameters and optimizer's memory
    python tools/tuning_table.py train runs/tuning --model=SOURCE --dataset=fashion_mnist

`train` fine-tunes a model in each way and with each seed, every run in a process of its own, and
reports the accuracy on the test images, the time of a step, the peak of the process's memory, and
the bytes that one more task takes to store.  A run that is there is not repeated; the table goes to
`table.json` and stdout.
"""

import argparse
import json
import math
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import keras

import keras_vit
from keras_vit.files import write_whole
from keras_vit.training.tuning import set_tune

COUNTED = ("all", "last:2", "lora:16", "lora:4", "bias", "norms", "head")
ROWS = {
    "all": {"tune": "all"},
    "all, layer decay 0.75": {"tune": "all", "layer_decay": 0.75},
    "last:2": {"tune": "last:2"},
    "lora:16": {"tune": "lora:16"},
    "lora:4": {"tune": "lora:4"},
    "head": {"tune": "head"},
}


def main():
    """Does what is not there and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("count", help="parameters and optimizer's memory")
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
    elif arguments.row:
        print(json.dumps(run(arguments)))
    else:
        measure(arguments)


def count():
    """Prints the trained parameters and the bytes of the optimizers' moments."""
    for name in ("ViT-S/16", "ViT-B/16"):
        for tune in COUNTED:
            model = keras_vit.create_model(name, num_classes=100)
            set_tune(model, tune)
            number = sum(math.prod(v.shape) for v in model.trainable_variables)
            print(f"{name} {tune:8} {number:11,} {4e-6 * number:6.1f} MB {8e-6 * number:6.1f} MB")
            keras.utils.clear_session()


def run(arguments):
    """One fine-tuning, in this process; what was measured."""
    start = time.perf_counter()
    result = keras_vit.finetune(
        arguments.model,
        arguments.dataset,
        folder_of(arguments, arguments.row, arguments.seed),
        data_dir=arguments.data_dir,
        overwrite=True,
        steps=arguments.steps,
        warmup_steps=arguments.steps // 10,
        report_steps=arguments.steps,
        batch_size=64,
        optimizer="adamw",
        learning_rate=arguments.learning_rate,
        augmentation="none",
        seed=arguments.seed,
        **ROWS[arguments.row],
    )
    adapter = result.files.get("adapter_model.safetensors")
    head = 4 * sum(math.prod(v.shape) for v in result.model.get_layer("head").weights)
    stored = head if arguments.row == "head" else (adapter or result.files["model.keras"])
    return {
        "accuracy": result.metrics["test"]["accuracy"],
        "seconds_a_step": result.metrics["seconds"] / result.metrics["steps"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
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
    for row in ROWS:
        for seed in range(arguments.seeds):
            key = f"{row}/{seed}"
            if key in table:
                continue
            command = [sys.executable, *sys.argv, f"--row={row}", f"--seed={seed}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            table[key] = json.loads(done.stdout.splitlines()[-1])
            write_whole(path, json.dumps(table, indent=2).encode())
    print("| tune | accuracy, % | ms a step | peak MB | kB to store |\n|---|---|---|---|---|")
    for row in ROWS:
        runs = [table[f"{row}/{seed}"] for seed in range(arguments.seeds)]
        mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        spread = 100 * (max(r["accuracy"] for r in runs) - min(r["accuracy"] for r in runs)) / 2
        print(
            f"| {row} | {100 * mean['accuracy']:.2f} ± {spread:.2f} "
            f"| {1000 * mean['seconds_a_step']:.0f} | {mean['peak_mb']:.0f} "
            f"| {mean['stored_bytes'] / 1000:.0f} |"
        )


if __name__ == "__main__":
    main()
