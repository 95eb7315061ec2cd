"""The whole story on real images: pre-train, fine-tune, evaluate, export, predict.

A small ViT is pre-trained at a low resolution on the handwritten digits 0-4 and fine-tuned at a
higher one on 5-9, which it has never seen.  It is exported as a SavedModel, which TensorFlow asks
about an image file.  A table shows what the pre-training is worth where images are few.

    python examples/digits.py [--workdir DIR] [--quick]
"""

import argparse
import logging
import os
import pathlib
import statistics
import time

LOW, HIGH = 16, 24  # image sizes in pixels
SHOTS = (1, 5, 20)
TIME_LIMIT_SECONDS = 210


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/digits"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--table_seeds", type=int, default=2, help="most runs averaged in the table"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    run(arguments.workdir, arguments.seed, arguments.table_seeds, arguments.quick)


def run(workdir, seed, table_seeds, quick):
    """Runs the demo; `quick` shortens everything."""
    print("Importing TensorFlow and Keras ...", flush=True)
    start = time.perf_counter()
    import_quietly()
    import keras_vit

    options = {"data_dir": workdir / "data", "overwrite": True, "seed": seed}
    short = {"steps": 4, "warmup_steps": 1} if quick else {}
    small = {"depth": 1} if quick else {}

    print(f"\n1. Pre-training at {LOW} px on digits/upstream (the digits 0-4)", flush=True)
    pretrained = keras_vit.pretrain(
        "digits/upstream", workdir / "pretrain", image_size=LOW, **options, **short, **small
    )
    report(pretrained)

    print(f"\n2. Fine-tuning at {HIGH} px on digits/downstream (5-9, never seen)", flush=True)
    finetuned = keras_vit.finetune(
        workdir / "pretrain",
        "digits/downstream",
        workdir / "finetune",
        image_size=HIGH,
        **options,
        **short,
    )
    report(finetuned)

    print("\n3. Exporting as a SavedModel", flush=True)
    saved_model = keras_vit.export(finetuned.model, workdir / "serving")
    print(f"   {saved_model}")

    print("\n4. Asking the SavedModel about an image file, with TensorFlow alone", flush=True)
    ask(saved_model, *write_digit(workdir))

    print("\n5. Test accuracy on digits/downstream by images a class, same recipe", flush=True)
    if quick:
        print_table(workdir, pretrained, SHOTS[:1], 1, short, start)
    else:
        print_table(workdir, pretrained, SHOTS, table_seeds, short, start)

    print(f"\nDone in {time.perf_counter() - start:.0f} s. Everything is in {workdir}:")
    for path, content in (
        ("pretrain/", "the pre-trained model: model.keras, checkpoint.npz (official layout)"),
        ("finetune/", "the fine-tuned model, metrics.json, history.csv, recipe.json"),
        (f"serving/{saved_model.name}/", "the SavedModel"),
        ("digit.png", "the image that it was asked about"),
        ("few_shot/", "the runs of the table"),
    ):
        print(f"  {path:12} {content}")


def import_quietly():
    """Imports keras_vit without the notes that TensorFlow writes to the descriptor of stderr."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        from keras_vit.training import run  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def report(result):
    """Prints accuracies and time of a run."""
    metrics = result.metrics
    print(
        f"   accuracy: validation {100 * metrics['validation']['accuracy']:.1f} %, "
        f"test {100 * metrics['test']['accuracy']:.1f} % of {metrics['test']['count']} images; "
        f"{metrics['steps']} steps in {metrics['seconds']:.0f} s"
    )


def write_digit(workdir):
    """Writes a test image as a PNG file; returns its path and the name of its class."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    dataset, info = tfds.load(
        "digits/downstream", split="test", data_dir=workdir / "data", with_info=True
    )
    example = next(iter(dataset))
    path = workdir / "digit.png"
    path.write_bytes(tf.io.encode_png(example["image"]).numpy())
    for row in example["image"].numpy()[..., 0]:
        print("   " + "".join(2 * " .:-=+*#%@"[int(pixel) * 10 // 256] for pixel in row))
    return path, info.features["label"].int2str(example["label"])


def ask(saved_model, image_file, label):
    """Asks a SavedModel for the class of an image file, and prints its answer."""
    import tensorflow as tf

    classify = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    answer = classify(image_bytes=tf.constant([image_file.read_bytes()]))
    predicted = answer["classes"][0, 0].numpy().decode()
    probability = float(answer["probabilities"][0, 0])
    print(f"   {image_file}: a {label}; predicted: {predicted}, probability {probability:.3f}")


def print_table(workdir, pretrained, all_shots, num_seeds, short, start):
    """Prints few-shot accuracies from the pre-trained checkpoint and from scratch.

    Each seed chooses other images; on a slow machine fewer seeds are averaged.
    """
    accuracies = {shots: [] for shots in all_shots}
    for seed in range(num_seeds):
        seed_start = time.perf_counter()
        for shots in all_shots:
            accuracies[shots].append(few_shot(workdir, pretrained, shots, seed, short))
            tuned, scratch = accuracies[shots][-1]
            print(
                f"   choice {seed + 1}, {shots:2} images a class: "
                f"fine-tuned {100 * tuned:.1f} %, from scratch {100 * scratch:.1f} %",
                flush=True,
            )
        now = time.perf_counter()
        if now - start + (now - seed_start) > TIME_LIMIT_SECONDS:
            break
    print("\n   images a class  fine-tuned  from scratch")
    for shots, pairs in accuracies.items():
        tuned, scratch = (100 * statistics.mean(column) for column in zip(*pairs, strict=True))
        print(f"   {shots:14}  {tuned:8.1f} %  {scratch:10.1f} %")
    print(f"   (means over {len(pairs)} choices of the images)")


def few_shot(workdir, pretrained, shots, seed, short):
    """Test accuracies (fine-tuned, from scratch) by the same recipe from the same few images."""
    import keras_vit
    from keras_vit.training.recipe import ARCHITECTURE_FIELDS

    recipe = pretrained.metrics["recipe"]
    architecture = {field: recipe[field] for field in ("model", *ARCHITECTURE_FIELDS)}
    options = {
        "recipe": "digits_few_shot",
        "image_size": HIGH,
        "data_dir": workdir / "data",
        "shots": shots,
        "seed": seed,
        "overwrite": True,
        "progress": False,
        **short,
    }
    folder = workdir / "few_shot"
    tuned = keras_vit.finetune(
        workdir / "pretrain", "digits/downstream", folder / f"finetune_{shots}_{seed}", **options
    )
    scratch = keras_vit.pretrain(
        "digits/downstream", folder / f"scratch_{shots}_{seed}", **options, **architecture
    )
    return tuned.metrics["test"]["accuracy"], scratch.metrics["test"]["accuracy"]


if __name__ == "__main__":
    main()
