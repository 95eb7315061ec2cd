"""`keras-vit predict`: what it prints, and what it does about files that it cannot read."""

import csv
import io
import json
import os
import pathlib
import shutil
import types

import pytest

import keras_vit
from keras_vit.inference import predict as predict_module


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
    assert err.startswith(f"keras-vit: error: {bad}: not a JPEG, PNG, WebP, GIF or BMP image, ")
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


@pytest.fixture
def photos(image_file, tmp_path):
    """Five images, one of them bad, one with a name that only a computer likes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", 'b ",\n.png', "c.png", "e.png"):
        shutil.copy(image_file, folder / name)
    (folder / "d.png").write_bytes(pathlib.Path(image_file).read_bytes()[:60])
    return folder


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predict_output_holds_every_path(keras_vit_command, model_file, photos, tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    code, out, err = keras_vit_command(
        "predict", f"--model={model_file}", f"--output={path}", "--top_k=2", photos
    )
    assert code == 1
    assert "d.png" in err
    assert err.count("\n") == 1
    assert f"written to  {path}" in out
    answers = {
        a.path: a for a in keras_vit.predict(keras_vit.from_pretrained(model_file), [photos])
    }
    assert len(answers) == 5
    if suffix == "csv":
        rows = read_csv(path)
        assert list(rows[0])[:5] == ["path", "error", "class_id_1", "class_name_1", "probability_1"]
        received = {row["path"]: (row["error"] or None, row["class_name_1"]) for row in rows}
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        received = {
            row["path"]: (
                row["error"],
                row["predictions"][0]["class_name"] if row["predictions"] else "",
            )
            for row in rows
        }
    assert received == {
        name: (answer.error, answer.predictions[0].class_name if answer.predictions else "")
        for name, answer in answers.items()
    }
    assert sorted(os.listdir(tmp_path)) == [path.name, "photos"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predict_output_goes_on_where_it_stopped(
    keras_vit_command, model_file, photos, tmp_path, monkeypatch, suffix
):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    arguments = ("predict", f"--model={model_file}", "--batch_size=1", photos)
    assert keras_vit_command(*arguments, f"--output={whole}")[0] == 1
    scores, seen = predict_module.KerasClassifier.scores, []

    def interrupted(self, prepared):
        seen.append(len(prepared))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return scores(self, prepared)

    monkeypatch.setattr(predict_module.KerasClassifier, "scores", interrupted)
    assert keras_vit_command(*arguments, f"--output={path}")[0] == 130
    assert not path.exists()
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "ab") as file:
        file.write(partial.read_bytes()[-20:-1])  # as a kill may leave it
    code, out, _ = keras_vit_command(*arguments, f"--output={path}", "--top_k=1")
    assert code == 1
    assert partial.exists(), "other settings must not spoil it"
    code, out, _ = keras_vit_command(*arguments, f"--output={path}")
    assert code == 1
    assert "from before  2" in out
    assert len(seen) == 3 + 2
    assert path.read_bytes() == whole.read_bytes()


def test_predict_output_that_exists_is_kept(keras_vit_command, model_file, image_file, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("kept")
    arguments = ("predict", f"--model={model_file}", f"--output={path}", image_file)
    code, out, err = keras_vit_command(*arguments)
    assert (code, out) == (1, "")
    assert "exists; choose another name or pass --overwrite" in err
    assert path.read_text() == "kept"
    assert keras_vit_command(*arguments, "--overwrite")[0] == 0
    assert [row["path"] for row in read_csv(path)] == [image_file]


def test_predict_output_of_unknown_format_is_2(keras_vit_command, model_file, image_file):
    code, _, err = keras_vit_command(
        "predict", f"--model={model_file}", "--output=x.txt", image_file
    )
    assert code == 2
    assert "--output must end in .csv or .jsonl. Received: x.txt" in err
