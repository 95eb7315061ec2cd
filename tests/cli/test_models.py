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


def test_models_have_their_cost(keras_vit_command):
    code, out, _ = keras_vit_command("models", "--json", "ViT-B/16")
    assert code == 0
    row = json.loads(out)
    assert (row["num_params"], round(row["gflops"], 1)) == (86_567_656, 17.6)
    _, out, _ = keras_vit_command("models", "ViT-B/16")
    header, line = out.splitlines()
    assert header.split()[2:4] == ["params", "GFLOPs"]
    assert line.split()[2:4] == ["86.6M", "17.6"]


def test_models_checkpoints_is_a_table_of_size_and_accuracy(keras_vit_command):
    code, out, err = keras_vit_command("models", "--checkpoints")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split() == [
        *("name", "architecture", "pixels", "classes", "params", "GFLOPs"),
        *("top-1", "fine-tuned", "training"),
    ]
    assert [line.split()[0] for line in lines] == keras_vit.list_checkpoints()
    cells = {line.split()[0]: line.split()[1:8] for line in lines}
    row = cells["imagenet21k+imagenet2012/ViT-B_16"]
    assert row == ["ViT-B/16", "384", "1000", "86.9M", "55.5", "84.2", "-"]
    row = cells["augreg/B_16--imagenet2012-res_384"]
    assert row == ["ViT-B/16", "384", "1000", "86.9M", "55.5", "85.5", "-"]
    assert cells["big_vision/flexivit/vit_b30_i21k_300ep"][:2] == ["ViT-B/30", "240"]
