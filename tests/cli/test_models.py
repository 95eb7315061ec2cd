"""`keras-vit models`: the names that other commands take."""

import json

import keras_vit


def test_models_lists_what_create_model_takes(keras_vit_command):
    code, out, err = keras_vit_command("models", "R50*")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split()[:2] == ["name", "family"]
    assert [line.split()[0] for line in lines] == keras_vit.list_models("R50*")


def test_models_json_has_the_sizes(keras_vit_command):
    code, out, _ = keras_vit_command("models", "--json", "ViT-B/16")
    assert code == 0
    row = json.loads(out)
    assert (row["hidden_size"], row["depth"], row["patch_size"]) == (768, 12, [16, 16])


def test_models_checkpoints_lists_the_catalogue(keras_vit_command):
    code, out, err = keras_vit_command("models", "--checkpoints", "sam/*", "--json")
    assert (code, err) == (0, "")
    names = [json.loads(line)["name"] for line in out.splitlines()]
    assert names == keras_vit.list_checkpoints("sam/*")
