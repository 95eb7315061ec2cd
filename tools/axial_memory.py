"""Peak memory of a training step of Axial-ViT-B/16 beside ViT-B/16, each in a process of its own.

    python tools/axial_memory.py [--image_size=512] [--batch_size=2] [--backend=tensorflow]

A step is `train_on_batch` of SGD with momentum in float32.  The peak is the largest resident set of
the process less that with the model built: gradients, momenta and what is kept for the gradients.
"whole" computes all T x T probabilities at once, as the official code does; "remat" computes each
block again for its gradient, which is how axial models are trained unless told otherwise.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

CASES = (
    ("ViT-B/16", "whole"),
    ("ViT-B/16", "plain"),
    ("ViT-B/16", "remat"),
    ("Axial-ViT-B/16", "plain"),
    ("Axial-ViT-B/16", "remat"),
)


def _megabytes(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def _child(model, way, image_size, batch_size):
    import contextlib

    import keras
    import numpy as np

    import keras_vit
    from keras_vit.layers.attention import whole_products

    keras.utils.set_random_seed(0)
    model = keras_vit.create_model(model, image_size=image_size)
    model.set_remat(way == "remat")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    images = np.random.default_rng(0).uniform(-1, 1, (batch_size, image_size, image_size, 3))
    before = _megabytes("VmRSS")
    with whole_products() if way == "whole" else contextlib.nullcontext():
        for _ in range(2):
            model.train_on_batch(images.astype("float32"), np.arange(batch_size))
    print(json.dumps({"peak": _megabytes("VmHWM") - before, "model": before}))


def main():
    """Prints a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--backend", default="tensorflow", choices=["tensorflow", "jax"])
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(*options.child, options.image_size, options.batch_size)
        return
    print(f"{options.image_size} px, batch {options.batch_size}, {options.backend}", flush=True)
    for model, way in CASES:
        result = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--child", model, way],
            env={**os.environ, "KERAS_BACKEND": options.backend},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            print(f"{model:16} {way:6} failed: {result.stderr.strip().splitlines()[-1]}")
            continue
        found = json.loads(result.stdout.splitlines()[-1])
        print(f"{model:16} {way:6} {found['peak']:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
