"""`keras-vit predict`: what it prints, and what it does about files that it cannot read."""

import io
import json
import os
import types

import pytest

import keras_vit


def test_predict_prints_names_and_probabilities(keras_vit_command, model_file, image_file):
    code, out, err = keras_vit_command("predict", "--model", model_file, image_file, "--top-k=2")
    assert (code, err) == (0, "")
    path, *lines = out.splitlines()
    (answer,) = keras_vit.predict(keras_vit.from_pretrained(model_file), [image_file], top_k=2)
    assert path == image_file
    assert [line.split() for line in lines] == [
        [f"{100 * p.probability:.2f}", "%", p.class_name] for p in answer.predictions
    ]


def test_predict_json_prints_one_object_a_line(keras_vit_command, model_file, image_file):
    folder = os.path.dirname(image_file)
    code, out, err = keras_vit_command("predict", f"--model={model_file}", "--json", folder)
    assert (code, err) == (0, "")
    (answer,) = map(json.loads, out.splitlines())
    assert answer["path"] == image_file
    assert answer["error"] is None
    assert [sorted(p) for p in answer["predictions"]] == 3 * [
        ["class_id", "class_name", "probability"]
    ]
    assert sum(p["probability"] for p in answer["predictions"]) == pytest.approx(1)


def test_predict_bad_image_is_1_after_all_others(
    keras_vit_command, model_file, image_file, tmp_path
):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html>")
    code, out, err = keras_vit_command(
        "predict", f"--model={model_file}", bad, image_file, "--json"
    )
    assert code == 1
    assert err == f"keras-vit: error: {bad}: not a JPEG or PNG image, looks like HTML or XML\n"
    answers = {answer["path"]: answer for answer in map(json.loads, out.splitlines())}
    assert answers[str(bad)]["error"]
    assert len(answers[image_file]["predictions"]) == 3


def test_predict_missing_image_is_1_with_one_line(keras_vit_command, model_file):
    code, out, err = keras_vit_command("predict", f"--model={model_file}", "none.png")
    assert (code, out) == (1, "")
    assert err == "keras-vit: error: none.png: no such file or folder\n"


def test_predict_dash_reads_paths_from_stdin(
    keras_vit_command, model_file, image_file, monkeypatch
):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(f"{image_file}\n\n".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    code, out, err = keras_vit_command("predict", f"--model={model_file}", "-")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == image_file


def test_predict_missing_saved_model_is_1(keras_vit_command, image_file, tmp_path):
    code, _, err = keras_vit_command("predict", f"--saved_model={tmp_path}", image_file)
    assert code == 1
    assert "there is no SavedModel" in err
