"""`keras-vit export`, and its SavedModel through `keras-vit predict`."""

import json
import os
import re

import numpy as np
import pytest

import keras_vit
from keras_vit.data.catalog import resolve


def test_export_then_predict_equals_predict_of_the_model(
    keras_vit_command, model_file, image_file, tmp_path
):
    names = tmp_path / "names.txt"
    names.write_text("x\ny\nz\n")
    folder = tmp_path / "served"
    code, out, err = keras_vit_command(
        "export", "--model", model_file, "--class_names", names, folder
    )
    assert (code, err) == (0, "")
    assert str(folder / "1") in out
    assert os.listdir(folder) == ["1"]
    answers = []
    for source in (f"--saved-model={folder}", f"--model={model_file}"):
        code, out, err = keras_vit_command("predict", source, image_file, "--json")
        assert (code, err) == (0, "")
        answers.append(json.loads(out)["predictions"])
    for exported, original in zip(*answers, strict=True):
        assert exported["class_id"] == original["class_id"]
        assert abs(exported["probability"] - original["probability"]) < 1e-5
        assert exported["class_name"] == "xyz"[original["class_id"]]


def test_export_onto_a_file_is_1_and_keeps_it(keras_vit_command, model_file, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    code, out, err = keras_vit_command("export", f"--model={model_file}", file)
    assert (code, out) == (1, "")
    assert err == f"keras-vit: error: {file} is a file; a folder is expected\n"
    assert file.read_text() == "kept"


def test_export_into_a_read_only_place_is_1(keras_vit_command, model_file):
    code, out, err = keras_vit_command("export", f"--model={model_file}", "/proc/keras_vit")
    assert (code, out) == (1, "")
    assert err.startswith("keras-vit: error: /proc")
    assert err.count("\n") == 1


def test_export_missing_model_is_1_and_makes_no_folder(keras_vit_command, tmp_path):
    code, out, err = keras_vit_command("export", "--model=none.npz", tmp_path / "folder")
    assert (code, out) == (1, "")
    assert "none.npz" in err
    assert os.listdir(tmp_path) == []


def test_export_wrong_number_of_names_is_2(keras_vit_command, model_file, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("x\n")
    code, _, err = keras_vit_command(
        "export", f"--model={model_file}", f"--class_names={names}", tmp_path / "folder"
    )
    assert code == 2
    assert "must name each of the 3 classes. Received: 1" in err
    assert os.listdir(tmp_path) == ["names.txt"]


def test_export_of_an_int8_onnx_file_says_what_it_costs_in_accuracy(
    keras_vit_command, digits_model, digits_dir, tmp_path
):
    pytest.importorskip("tf2onnx")
    code, out, err = keras_vit_command(
        *("export", f"--model={digits_model}", "--format=onnx", "--quantization=int8"),
        *("--dataset=digits/downstream", f"--data_dir={digits_dir}", tmp_path / "x.onnx"),
    )
    assert (code, err) == (0, "")
    assert "int8, static" in out
    assert re.search(r"accuracy +[01]\.\d+ -> [01]\.\d+ .* images of digits/downstream test", out)


def test_export_prints_what_it_measured(keras_vit_command, digits_model, digits_dir, tmp_path):
    folder = tmp_path / "served"
    code, out, err = keras_vit_command(
        *("export", f"--model={digits_model}", "--quantization=int8", "--on_bad_image=mark"),
        *("--batching", "--dataset=digits/downstream", f"--data_dir={digits_dir}", folder),
    )
    assert (code, err) == (0, "")
    lines = {line.split("  ")[1].strip(): line for line in out.splitlines()[1:]}
    assert {"size", "difference", "batch of 1", "batch of 8", "accuracy"} <= set(lines)
    before, after, change, count = re.search(
        r"([01]\.\d+) -> ([01]\.\d+) \(([+-]\d\.\d+)\) on (\d+) images of digits/downstream test",
        lines["accuracy"],
    ).groups()
    assert abs(float(after) - float(before) - float(change)) < 1e-9
    assert int(count) > 100
    assert sorted(os.listdir(folder)) == ["1", "batching_parameters.txt"]
    description = json.loads((folder / "1" / "assets" / "model.json").read_text())
    assert description["metrics"] == {"accuracy": 0.5}


@pytest.fixture
def digits_model(tmp_path, digits_dir):
    """The folder of a run on the digits, as far as `export` looks at it."""
    info = resolve.resolve("digits/downstream", digits_dir)
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=5, image_size=16, depth=1, class_names=info.class_names
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, kernel.shape))
    folder = tmp_path / "run"
    folder.mkdir()
    model.save(folder / "model.keras")
    (folder / "metrics.json").write_text('{"accuracy": 0.5}')
    return folder


def test_export_litert_writes_a_file_and_its_description(keras_vit_command, model_file, tmp_path):
    path = tmp_path / "model.tflite"
    arguments = ("export", f"--model={model_file}", "--format=litert", "--dtype=float16", path)
    code, out, err = keras_vit_command(*arguments)
    assert (code, err) == (0, "")
    assert "LiteRT, float16 weights" in out
    names = ["model.tflite", "model.tflite.json", "model.tflite.preprocess.py"]
    assert sorted(os.listdir(tmp_path)) == names
    code, _, err = keras_vit_command(*arguments)
    assert code == 1
    assert "exists; choose another name or pass --overwrite" in err
    assert keras_vit_command(*arguments, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=onnx", "--jit"], "--jit is of --format=saved_model, not of onnx"),
        (["--format=litert", "--top_k=3"], "--top_k is of --format=saved_model, not of litert"),
        (["--dtype=float16"], "`dtype` must be one of"),
        (["--batching"], "must go with on_bad_image='mark'"),
    ],
)
def test_export_flags_that_do_not_go_together_are_2(
    keras_vit_command, model_file, tmp_path, flags, message
):
    code, _, err = keras_vit_command("export", f"--model={model_file}", *flags, tmp_path / "x")
    assert code == 2
    assert message in err
    assert os.listdir(tmp_path) == []
