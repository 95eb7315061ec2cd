"""Every command gives each file of a real folder its row, and the same reason."""

import json
import shutil

import numpy as np
import pytest

import keras_vit
from tests.data import real_life
from tests.data.conftest import encode

RULE = keras_vit.Preprocessing(image_size=(8, 8), orientation="exif")
# In a folder these are no images, by their endings and by their first bytes.
OTHERS = {"film.mp4", "letter.pdf", "sound.wav"}


@pytest.fixture(name="place", scope="module")
def place_fixture(tmp_path_factory):
    """A folder of two classes and two splits, and what its files are."""
    root = tmp_path_factory.mktemp("place")
    pictures = root / "photos" / "train" / "pictures"
    good, bad = real_life.write(pictures, encode)
    for name in real_life.STRANGE_NAMES:
        (pictures / name).write_bytes(good["444.jpg"])
    other = root / "photos" / "train" / "other"
    other.mkdir()
    for k in range(1, 9):
        shutil.copy(pictures / f"IMG_{k:04}.JPG", other)
    shutil.copytree(root / "photos" / "train", root / "photos" / "test")
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, image_size=8, patch_size=4, hidden_size=16, num_heads=2, depth=1
    )
    model.preprocessing = RULE
    model.save(root / "model.keras")
    return root, set(good) | set(real_life.STRANGE_NAMES), bad


@pytest.fixture(name="command")
def command_fixture(keras_vit_command):
    def run(*arguments):
        code, out, err = keras_vit_command(*arguments)
        return code, [json.loads(line) for line in out.splitlines() if line[:1] == "{"], err

    return run


def reasons(rows, key):
    return {row["path"].rpartition("/")[2]: row[key] for row in rows if row[key] is not None}


def test_predict_validate_evaluate_and_finetune_say_the_same(place, command):
    root, good, bad = place
    photos, pictures = root / "photos", root / "photos" / "train" / "pictures"
    code, rows, err = command("predict", f"--model={root}/model.keras", "--json", pictures)
    assert code == 1
    assert {row["path"].rpartition("/")[2] for row in rows} == (good | set(bad)) - OTHERS
    assert "3 other files are no images" in err
    said = reasons(rows, "error")
    assert set(said) == set(bad) - OTHERS
    # What is given by its name is answered whatever it is.
    code, rows, _ = command(
        "predict", f"--model={root}/model.keras", "--json", *(pictures / name for name in OTHERS)
    )
    said |= reasons(rows, "error")
    for name, (_, expected) in bad.items():
        assert expected in said[name], name

    code, rows, _ = command("validate", photos, "--splits=train", "--json")
    in_train = {name: reason for name, reason in reasons(rows, "reason").items() if name in bad}
    assert (code, in_train) == (1, said)
    # A name that is not UTF-8 can be predicted, and is no example of a data set.
    left = {row["path"].rpartition("/")[2] for row in rows} - set(bad)
    assert left == {"latin\\xe9.jpg"}

    code, (metrics,), err = command(
        *("evaluate", f"--model={root}/model.keras", f"--dataset={photos}", "--json"),
        "--max_bad_fraction=0.9",
    )
    assert (code, metrics["count"]) == (0, len(good) - 1 + 8)
    assert all(f"{name}: {reason}" in err for name, reason in said.items())

    code, *_ = command(
        *("finetune", f"--model={root}/model.keras", f"--dataset={photos}"),
        *("--max_bad_fraction=0.9", f"--workdir={root}/run", "--image_size=8", "--noreport"),
        *("--set=steps=1", "--set=warmup_steps=0", "--set=report_steps=1"),
    )
    assert code == 0
    lines = (root / "run" / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    skipped = [row for row in map(json.loads, lines) if row["split"] == "train"]
    in_train = {name: why for name, why in reasons(skipped, "reason").items() if name in bad}
    assert in_train == said


def test_files_of_answers_have_a_row_for_each_file(place, command):
    root, good, bad = place
    pictures = root / "photos" / "train" / "pictures"
    target = root / "answers.jsonl"
    keras_file = f"--model={root}/model.keras"
    code, _, _ = command("predict", keras_file, f"--output={target}", pictures)
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert (code, len(rows)) == (1, len(good) + len(bad) - len(OTHERS))
    answers = {row["path"].rpartition("/")[2]: row["predictions"] for row in rows}
    assert np.all([answers[name] for name in good])


@pytest.mark.slow
def test_a_saved_model_says_the_same(place, command):
    root, _, _ = place
    pictures = root / "photos" / "train" / "pictures"
    _, expected, _ = command("predict", f"--model={root}/model.keras", "--json", pictures)
    assert command("export", f"--model={root}/model.keras", root / "serving")[0] == 0
    _, rows, _ = command("predict", f"--saved_model={root}/serving", "--json", pictures)
    assert reasons(rows, "error") == reasons(expected, "error")
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
