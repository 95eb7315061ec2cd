"""Times `keras-vit finetune --dataset=FOLDER` from pictures without a split to a report.

    python tools/five_minutes.py /tmp/five_minutes

The pictures are 400 tiles, 72 px, of five photographs that scikit-image has, a class each.  The
model is a ViT-Ti/16 with random weights in an official file, taken at 96 px: the time is that of a
pre-trained one, and the accuracy is not.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
from PIL import Image

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg")
TILE, TILES, WIDTH = 72, 80, 900


def write_tiles(folder):
    """Writes tiles that do not overlap, 80 of each photograph, chosen by a seed."""
    import skimage.data

    source = pathlib.Path(skimage.data.__file__).parent
    for name in PHOTOGRAPHS:
        image = Image.open(source / name).convert("RGB")
        scale = WIDTH / max(image.size)
        pixels = np.asarray(image.resize([round(side * scale) for side in image.size]))
        corners = [
            (top, left)
            for top in range(0, pixels.shape[0] - TILE + 1, TILE)
            for left in range(0, pixels.shape[1] - TILE + 1, TILE)
        ]
        np.random.default_rng(0).shuffle(corners)
        place = folder / pathlib.PurePath(name).stem
        place.mkdir(parents=True)
        for top, left in corners[:TILES]:
            tile = pixels[top : top + TILE, left : left + TILE]
            Image.fromarray(tile).save(place / f"{top}_{left}.jpg", quality=90)


def timed(*command):
    """Runs a command; returns its wall and processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "keras_vit", *command], check=True)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(used, 1)}


def main(folder):
    """Makes the pictures and the model, runs the commands, prints what they took."""
    folder = pathlib.Path(folder)
    photos, model, run = folder / "photos", folder / "ti16.npz", folder / "run"
    write_tiles(photos)
    code = (
        "import keras, keras_vit; keras.utils.set_random_seed(0); "
        f"keras_vit.save_pretrained(keras_vit.create_model('ViT-Ti/16'), {str(model)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    tiles = sorted(map(str, photos.rglob("*.jpg")))
    taken = {
        "load_before": round(os.getloadavg()[0], 1),
        "finetune": timed(
            "finetune",
            f"--model={model}",
            f"--dataset={photos}",
            f"--workdir={run}",
            "--image_size=96",
        ),
        "predict 400": timed(
            "predict", f"--model={run}", f"--output={folder / 'answers.csv'}", *tiles
        ),
        "export": timed("export", f"--model={run}", str(folder / "serving")),
    }
    metrics = json.loads((run / "metrics.json").read_text())
    taken["steps"] = metrics["steps"]
    taken["training_seconds"] = metrics["seconds"]
    taken["test"] = metrics["test"]
    taken["report_bytes"] = (run / "report.html").stat().st_size
    print(json.dumps(taken, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
