"""`keras-vit export`, and its SavedModel through `keras-vit predict`."""

import json
import os


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
