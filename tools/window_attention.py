"""Time and peak memory of a forward pass with global and with windowed attention.

    python tools/window_attention.py [--image_size=1024] [--window=14] [--backend=tensorflow]

Each row is a process of its own: ViT-B/16 in float32, one image, to the last map.  The seconds are
the shorter of two passes after a first one; the peak is the largest resident set of the process
less that with the model built.  "whole" computes all T x T probabilities of a block at once, as the
official code does; "global" is what the package does at that length; in "windows" four blocks of
twelve attend to all tokens, as in ViTDet.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROWS = ("global", "windows", "whole")


def _megabytes(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def _child(row, model, image_size, window):
    import numpy as np

    import keras_vit
    from keras_vit.layers.attention import whole_products
    from keras_vit.models.windows import windowed_features

    model = keras_vit.create_model(model, num_classes=0, image_size=image_size)
    if row == "windows":
        features = windowed_features(model, window)
    else:
        features = model.feature_extractor((-1,), "grid", normalize=False)
    shape = (1, image_size, image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    before, seconds = _megabytes("VmRSS"), []
    with whole_products() if row == "whole" else contextlib.nullcontext():
        for _ in range(3):
            start = time.perf_counter()
            features.predict_on_batch(images)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(seconds[1:]), "peak": _megabytes("VmHWM") - before}))


def main(arguments=None):
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ViT-B/16")
    parser.add_argument("--image_size", type=int, default=1024, help="pixels of a side")
    parser.add_argument("--window", type=int, default=14, help="patches of a side")
    parser.add_argument("--backend", default="tensorflow", choices=["tensorflow", "jax"])
    parser.add_argument("--child", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        _child(given.child, given.model, given.image_size, given.window)
        return
    print("| attention | seconds | peak memory |\n|---|---|---|", flush=True)
    options = [f"--{name}={getattr(given, name)}" for name in ("model", "image_size", "window")]
    for row in ROWS:
        result = subprocess.run(
            [sys.executable, __file__, *options, f"--child={row}"],
            env={**os.environ, "KERAS_BACKEND": given.backend},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            sys.exit(f"{row}: {result.stderr.strip().splitlines()[-1]}")
        found = json.loads(result.stdout.splitlines()[-1])
        print(f"| {row} | {found['seconds']:.1f} | {found['peak']:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
