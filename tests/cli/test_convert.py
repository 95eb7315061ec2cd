"""`keras-vit convert`."""

import json
import os
import pathlib

import pytest

import keras_vit

SOURCE = pathlib.Path(__file__).parents[1] / "reference" / "vit_jax" / "vit_token.npz"


def test_convert_prints_what_happened_and_how_close_it_is(keras_vit_command, tmp_path):
    folder = tmp_path / "hf"
    code, out, err = keras_vit_command(
        "convert", SOURCE, folder, "--format=huggingface", "--image-size=24"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert (
        "2 x Transformer/encoderblock_*/LayerNorm_0/scale (24) -> "
        "vit.encoder.layer.*.layernorm_before.weight (24): renamed"
    ) in lines
    assert any(line.endswith("(1, 37, 24): renamed, resized") for line in lines)
    assert "loaded again  largest difference, of the largest value: features 0.0e+00" in out
    assert keras_vit.from_pretrained(folder).config.image_size == (24, 24)


def test_convert_json_is_the_report(keras_vit_command, tmp_path):
    code, out, err = keras_vit_command(
        "convert", SOURCE, tmp_path / "m.keras", "--json", "--num_classes=0"
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["target_format"], report["num_classes"]) == ("keras", 0)
    assert report["counts"]["dropped"] == 2
    assert report["differences"] == {"features": 0.0}


def test_convert_dry_run_lists_every_array_and_writes_nothing(keras_vit_command, tmp_path):
    code, out, err = keras_vit_command(
        "convert", SOURCE, tmp_path / "f.npz", "--format=big_vision", "--dry_run", "--arrays"
    )
    assert (code, err) == (0, "")
    assert "would convert" in out
    assert out.count("Transformer/encoderblock_1/") == 2 * 16
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["one"], 2, "needs a source and a destination. Received: one"),
        ([SOURCE, "f.npz"], 2, "`format` must be one of vit_jax"),
        ([SOURCE, "f.npz", "--format=vit_jx"], 2, "unknown format. Received: 'vit_jx'"),
        ([SOURCE, "f.npz", "--format=vit_jax", "--image_size=big"], 2, "must be like 384"),
        ([SOURCE, "f.npz", "--format=vit_jax", "--image_size=17"], 2, "does not divide"),
        ([SOURCE, "f.npz", "--format=vit_jax", "--dtype=int8"], 2, "float32|float16|bfloat16"),
        ([SOURCE, "f.npz", "--format=bit"], 1, "bit cannot hold a model of the family 'vit'"),
        (["none.npz", "f.npz", "--format=bit"], 1, "none.npz: there is no such file"),
    ],
)
def test_convert_failure_has_its_code_and_writes_nothing(
    arguments, code, words, keras_vit_command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found, out, err = keras_vit_command("convert", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_convert_existing_file_is_replaced_only_with_overwrite(keras_vit_command, tmp_path):
    path = tmp_path / "f.npz"
    path.write_text("kept")
    code, _, err = keras_vit_command("convert", SOURCE, path, "--format=vit_jax")
    assert code == 1
    assert "f.npz would be replaced" in err
    assert path.read_text() == "kept"
    code, _, _ = keras_vit_command("convert", SOURCE, path, "--format=vit_jax", "--overwrite")
    assert code == 0
    assert keras_vit.from_pretrained(path).config.num_classes == 5
