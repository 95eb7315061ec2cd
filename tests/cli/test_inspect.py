"""`keras-vit inspect`: where its report goes, and what it says."""

import json

import numpy as np
import PIL.Image
import pytest

import keras_vit
from keras_vit.cli.main import main


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    model = keras_vit.create_model(
        "ViT-Ti/16",
        num_classes=3,
        image_size=16,
        patch_size=8,
        depth=1,
        hidden_size=12,
        num_heads=2,
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        pixels = np.full((9, 9, 3), 50 * i, "uint8")
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    return str(folder)


def test_a_page_is_written_and_not_written_over(model_file, photos, tmp_path, capsys):
    path = tmp_path / "new" / "report.html"
    arguments = ["inspect", model_file, f"--images={photos}", f"--output={path}", "--max_images=2"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "VisionTransformer" in out
    assert "2, 2 more not looked at" in out
    assert "2 of 2 images" in err
    assert "0.png" in path.read_text()
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_json_goes_to_stdout_with_two_models(model_file, photos, capsys):
    arguments = ["inspect", model_file, "--against", model_file, "--images", photos]
    assert main([*arguments, "--format=json"]) == 0
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert [model["label"] for model in value["models"]] == [model_file, f"{model_file} (2)"]
    assert value["models"][0]["skipped_images"][0]["path"].endswith("bad.jpg")
    assert value["linear_cka"]["values"][0][0] == pytest.approx(1, abs=1e-4)
    assert "skipped" in err


def test_the_ending_tells_the_format(model_file, tmp_path, capsys):
    path = tmp_path / "x.png"
    assert main(["inspect", model_file, f"--output={path}"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in capsys.readouterr().out


def test_wrong_commands_say_what_is_expected(tmp_path, capsys):
    assert main(["inspect"]) == 2
    assert "takes one model" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none.keras")]) == 1
