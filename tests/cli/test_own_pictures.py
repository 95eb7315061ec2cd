"""From a folder of pictures without a split to a model, a report and what to do next."""

import json
import shlex

import pytest

import keras_vit
from tests.data.own_pictures import write_folder


@pytest.fixture(name="model")
def model_fixture(tmp_path):
    small = {"image_size": 20, "patch_size": 5, "hidden_size": 16, "num_heads": 2, "depth": 1}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, **small)
    return keras_vit.save_pretrained(model, tmp_path / "small.npz")


@pytest.mark.slow
def test_pictures_to_a_report(keras_vit_command, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = write_folder(tmp_path / "photos", 20)
    (photos / "china" / "broken.jpg").write_bytes(b"<html>")
    code, out, err = keras_vit_command(
        *("finetune", f"--model={model}", "--dataset=photos", "--set=steps=2"),
        *("--set=warmup_steps=0", "--set=report_steps=2"),
    )
    assert code == 0, err
    run = tmp_path / "runs" / "photos"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_skipped"] == 1
    assert any("fewer than" in sentence for sentence in metrics["findings"])
    assert "recipe own_pictures: ours, for" in err
    assert "broken.jpg: not a JPEG" in err
    assert "photos has no split: one is made by content" in err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert {"predict", "export", "report.html", "split.csv"} <= set(lines)
    page = (run / "report.html").read_text()
    assert "keras-vit predict" in page
    assert "What to do with it" in page
    assert "too few to measure by" in page

    code, out, _ = keras_vit_command(
        *("evaluate", "--model=runs/photos", "--dataset=photos", "--json"),
        "--max_bad_fraction=0.5",
    )
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    command = shlex.split(lines["predict"].split("keras-vit ")[1])
    picture = str(next((photos / "flower").iterdir()))
    code, out, _ = keras_vit_command(*(a if a != "PICTURES" else picture for a in command))
    assert code == 0
    assert "china" in out
