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


def listed(keras_vit_command, *arguments):
    code, out, err = keras_vit_command("models", *arguments, "--json")
    assert (code, err) == (0, "")
    return {row["name"]: row for row in map(json.loads, out.splitlines())}


def test_models_hub_lists_what_timm_publishes_with_size_and_licence(keras_vit_command):
    rows = listed(keras_vit_command, "--hub")
    # Parameters as timm counts them.
    for name, millions in {
        "vit_base_patch16_224.augreg_in21k_ft_in1k": 86.57,
        "vit_small_patch14_dinov2.lvd142m": 22.06,
        "vit_giant_patch14_dinov2.lvd142m": 1136.48,
        "vit_so400m_patch14_siglip_384.webli": 428.23,
        "deit3_huge_patch14_224.fb_in1k": 632.13,
        "vit_base_patch32_clip_224.openai": 87.85,
    }.items():
        assert abs(rows[name]["num_params"] / 1e6 - millions) < 0.006, name
    assert rows["vit_small_patch14_dinov2.lvd142m"]["task"] == "features"
    assert rows["aimv2_1b_patch14_448.apple_pt"]["num_params"] is None


def test_models_are_filtered_by_task_size_and_licence(keras_vit_command):
    every = listed(keras_vit_command, "--hub", "*dinov2*")
    arguments = ("--task=features", "--max_params=100", "--licence=apache-2.0")
    found = listed(keras_vit_command, "--hub", "*dinov2*", *arguments)
    assert set(found) == {
        name
        for name, row in every.items()
        if row["task"] == "features"
        and row["licence"] == "apache-2.0"
        and row["num_params"] <= 100e6
    }
    assert found
    small = listed(keras_vit_command, "--checkpoints", "sam/*", "--max_params=30")
    assert list(small) == ["sam/ViT-S_16"]


def test_models_filters_that_keep_nothing_say_so(keras_vit_command):
    code, _, err = keras_vit_command("models", "--checkpoints", "sam/*", "--task=features")
    assert code == 2
    assert "--task=features" in err
    code, _, err = keras_vit_command("models", "--licence=mit")
    assert code == 2
    assert "add --checkpoints or --hub" in err
