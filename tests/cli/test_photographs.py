"""From a folder of photographs to a tuned model, on the command line, by an official recipe."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

TILE = 64
# The last columns of tiles are the test split, so that no pixel is in both.
TEST_COLUMNS = 3


@pytest.fixture
def photographs(tmp_path):
    """The two photographs that scikit-learn has, as two classes of tiles."""
    for name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
        rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
        for row, column in np.ndindex(rows, columns):
            split = "test" if column >= columns - TEST_COLUMNS else "train"
            place = tmp_path / "photographs" / split / name
            place.mkdir(parents=True, exist_ok=True)
            top, left = row * TILE, column * TILE
            tile = Image.fromarray(pixels[top : top + TILE, left : left + TILE])
            tile.save(place / f"{row}_{column}.jpg", quality=95)
    return tmp_path / "photographs"


def test_photographs_are_told_apart_after_the_official_finetuning(
    keras_vit_command, photographs, digits_dir, tmp_path
):
    up, run = tmp_path / "up", tmp_path / "run"
    code, _, _ = keras_vit_command(
        *("pretrain", "--dataset=digits/upstream", f"--data_dir={digits_dir}", f"--workdir={up}"),
        *("--set=steps=2", "--set=warmup_steps=0", "--set=depth=1", "--set=report_steps=2"),
        "--noreport",
    )
    assert code == 0
    code, out, _ = keras_vit_command(
        *("finetune", "--recipe=vit_jax_augreg", f"--model={up}", f"--dataset={photographs}"),
        *(f"--workdir={run}", "--image_size=32", "--max_bad_fraction=0", "--json"),
        "--noreport",
        *("--set=steps=60", "--set=warmup_steps=10", "--set=batch_size=16"),
        *("--set=accumulation_steps=2", "--set=report_steps=30"),
    )
    assert code == 0
    metrics = json.loads(out)
    assert metrics["num_train_examples"] == 2 * 6 * 7
    assert metrics["test"]["count"] == 2 * 6 * 3
    assert metrics["num_skipped"] == 0
    # One sky and garden, one flower: colours alone tell most tiles.
    assert metrics["test"]["accuracy"] > 0.8
    picture = next((photographs / "test" / "flower").iterdir())
    code, out, _ = keras_vit_command("predict", f"--model={run}", "--json", picture)
    assert code == 0
    assert {row["class_name"] for row in json.loads(out)["predictions"]} <= {"china", "flower"}
