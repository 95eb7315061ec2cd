"""Tries an export with TensorFlow alone: python standalone.py SAVED_MODEL [CASES.npz]

Every signature is run, with good requests and with such as must be refused, and timed.  This file
imports nothing of keras_vit, so that it runs where only TensorFlow is installed.

CASES.npz holds what to ask and what must come back: `image_0`, `image_1`, ... (uint8, the bytes of
an image file), `images` (uint8 (B, H, W, 3)), `tensors` (float32), and for a signature and one of
its outputs `expected/<signature>/<output>`.

Prints one JSON object: `differences` (of each expected output: the largest, and the largest
|expected|), `problems` (what was not as it must be), and `seconds` (for each batch size, the median
time of `serving_default`).
"""

import json
import statistics
import sys
import time

import numpy as np

if __name__ == "__main__":  # TensorFlow imports Keras where it can
    sys.modules["keras"] = sys.modules["keras_vit"] = None
import tensorflow as tf  # noqa: E402

BATCH_SIZES = (1, 8)
_TIMED_CALLS = 5
_TIMED_SECONDS = 10.0
# What is no image, and what a bad one must not cost.
_TEXT = b"<html>not an image</html>"


def example_images():
    """Encoded images of several kinds and sizes, without noise that no photograph has."""
    rng = np.random.default_rng(0)
    images = []
    for height, width, channels, encode in (
        (480, 640, 3, tf.io.encode_jpeg),
        (64, 48, 3, tf.io.encode_png),
        (33, 57, 1, tf.io.encode_png),
        (48, 40, 4, tf.io.encode_png),
    ):
        coarse = rng.integers(0, 256, (9, 12, channels)).astype(np.float32)
        pixels = tf.image.resize(coarse, (height, width), "bicubic")
        images.append(encode(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)).numpy())
    return images


def load_cases(path, tensors_shape):
    """The cases of a file, or some that say nothing about what must come back."""
    if path is None:
        rng = np.random.default_rng(0)
        return example_images(), {
            "images": rng.integers(0, 256, (1, 40, 30, 3), dtype=np.uint8),
            "tensors": rng.uniform(-1, 1, (2, *tensors_shape)).astype(np.float32),
        }
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    names = sorted((n for n in arrays if n.startswith("image_")), key=lambda n: int(n[6:]))
    return [arrays.pop(name).tobytes() for name in names], arrays


def requests_of(name, specification, encoded, arrays):
    """The good request of a signature, and a dict of such as it must refuse."""
    if specification.dtype == tf.string:
        good = tf.constant(encoded)
        refused = {"a scalar": good[0], "rank 2": good[tf.newaxis]}
    else:
        good = tf.constant(arrays[name])
        refused = {
            "no batch": good[0],
            "a scalar": tf.zeros((), good.dtype),
            "rank 5": good[tf.newaxis],
            "4 channels": tf.concat([good, good[..., :1]], axis=-1),
        }
        if name == "tensors":
            refused["another size"] = tf.concat([good, good[:, :1]], axis=1)
            refused["NaN"] = good * np.float32("nan")
    return good, {**refused, "an empty batch": good[:0]}


def check_signature(name, function, encoded, arrays):
    """Returns (differences, problems) of one signature."""
    ((argument, specification),) = function.structured_input_signature[1].items()
    good, refused = requests_of(name, specification, encoded, arrays)
    outputs = function(**{argument: good})
    differences, problems = {}, []
    for output, value in outputs.items():
        if value.dtype.is_floating and not np.all(np.isfinite(value)):
            problems.append(f"{name!r} gives values in {output!r} that are not finite")
        key = f"expected/{name}/{output}"
        if key in arrays:
            expected = arrays[key].astype(np.float64)
            difference = float(np.max(np.abs(value.numpy() - expected)))
            differences[f"{name}/{output}"] = (difference, float(np.max(np.abs(expected))))
    for what, request in refused.items():
        try:
            function(**{argument: request})
        except tf.errors.InvalidArgumentError:
            continue
        problems.append(f"{name!r} accepts {what}")
    if specification.dtype == tf.string:
        problems += check_bad_image(name, function, argument, encoded, outputs)
    return differences, problems


def check_bad_image(name, function, argument, encoded, clean):
    """What is wrong about the answer to a batch whose second image is text."""
    batch = tf.constant([encoded[0], _TEXT, *encoded[2:]])
    if "error" not in clean:
        try:
            function(**{argument: batch})
        except tf.errors.InvalidArgumentError as error:
            return [] if "image 1: " in error.message else [f"{name!r} does not name a bad image"]
        return [f"{name!r} accepts text for an image"]
    answer = {output: value.numpy() for output, value in function(**{argument: batch}).items()}
    errors = answer.pop("error")
    problems = []
    if [bool(error) for error in errors] != [i == 1 for i in range(len(errors))]:
        problems.append(f"{name!r} marks the wrong images: {errors.tolist()}")
    for output, value in answer.items():
        others = np.arange(len(value)) != 1
        if not np.array_equal(value[others], clean[output].numpy()[others]):
            problems.append(f"a bad image changes {output!r} of its neighbours in {name!r}")
    return problems


def time_batches(function, encoded):
    """Batch size -> median seconds of one call."""
    seconds = {}
    for batch_size in BATCH_SIZES:
        batch = tf.constant([encoded[0]] * batch_size)
        function(image_bytes=batch)
        start, times = time.perf_counter(), []
        while len(times) < _TIMED_CALLS and time.perf_counter() - start < _TIMED_SECONDS:
            begin = time.perf_counter()
            function(image_bytes=batch)
            times.append(time.perf_counter() - begin)
        seconds[batch_size] = statistics.median(times)
    return seconds


def main(saved_model, cases=None):
    loaded = tf.saved_model.load(saved_model)  # its functions die with it
    functions = loaded.signatures
    shape = functions["tensors"].structured_input_signature[1]["tensors"].shape
    encoded, arrays = load_cases(cases, shape[1:])
    differences, problems = {}, []
    for name in sorted(functions):
        found, wrong = check_signature(name, functions[name], encoded, arrays)
        differences.update(found)
        problems += wrong
    report = {
        "tensorflow": tf.__version__,
        "signatures": sorted(functions),
        "differences": differences,
        "problems": problems,
        "seconds": time_batches(functions["serving_default"], encoded),
    }
    print(json.dumps(report))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
