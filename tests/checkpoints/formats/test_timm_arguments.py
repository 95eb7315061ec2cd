"""What a timm folder's config.json says decides what is computed, or is refused."""

import json
import logging as standard_logging
import pathlib
import shutil

import keras
import numpy as np
import pytest
from absl import logging

import keras_vit
from keras_vit.checkpoints.containers import safetensors
from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.checkpoints.formats import timm_arguments
from keras_vit.errors import CheckpointError

# Written by timm's `save_for_hf` (tools/timm_parity.py), with its outputs.
NAMED = pathlib.Path(__file__).parents[2] / "reference" / "torch" / "timm_named"
# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5


def stored(path):
    return read_stored(path, safetensors.read_headers(path))


def changed(name, folder, **facts):
    """A reference folder whose config.json says something else; None removes an entry."""
    shutil.copy(NAMED / name / "model.safetensors", folder)
    config = {**json.loads((NAMED / name / "config.json").read_text()), **facts}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def outputs(model, name):
    with np.load(NAMED / name / "ref.npz") as file:
        return keras.ops.convert_to_numpy(model(file["images"])), file["logits"]


RIGHT = {
    # 16 heads where its width alone means half a head: 83 % off by a guess.
    "vit_base_patch16_gap_224": {"num_heads": 16, "pooling": "mean"},
    "test_vit": {"num_heads": 2},
    "test_vit2": {"num_registers": 1, "register_positions": True, "final_norm": "pooled"},
    "test_vit3": {"pooling": "attention", "register_positions": True},
    "vit_base_patch16_224_avg": {"pooling": "patch_mean", "final_norm": "pooled"},
    "vit_base_patch16_siglip_gap_224": {"gelu": "exact", "pooling": "mean"},
    "vit_base_patch16_siglip_224": {"gelu": "exact", "pooling": "attention"},
    "vit_base_patch16_siglip_512": {"pooling": "attention"},
    "vit_base_patch32_clip_quickgelu_224": {"gelu": "quick", "layer_norm_epsilon": 1e-5},
    "vit_base_patch16_clip_224": {"gelu": "exact", "pre_norm": True, "patch_bias": False},
    "deit3_small_patch16_224": {"layer_scale": 1e-6},
    "deit_tiny_distilled_patch16_224": {"pooling": "distillation"},
    "vit_giant_patch14_dinov2": {"gated_mlp": True},
    "vit_giant_patch14_reg4_dinov2": {"num_registers": 4, "register_positions": False},
    "vit_medium_patch16_reg4_gap_256": {"class_token": False, "pooling": "patch_mean"},
    "vit_small_patch14_reg4_dinov2": {"num_registers": 4, "pooling": "token"},
    "vit_intern300m_patch14_448": {"final_norm": "none"},
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_named_model_is_what_timm_computes_and_comes_back(name, assert_close, tmp_path):
    model = keras_vit.from_pretrained(NAMED / name)
    for field, value in RIGHT[name].items():
        assert getattr(model.config, field) == value
    assert_close(*outputs(model, name), PARITY)
    path = keras_vit.save_pretrained(model, tmp_path / "model.safetensors")
    arrays, again = stored(NAMED / name / "model.safetensors"), stored(path)
    assert {k: a.tobytes() for k, a in again.items()} == {k: a.tobytes() for k, a in arrays.items()}
    assert keras_vit.from_pretrained(path).config == model.config


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"architecture": "vit_base_patch16_227"}, "'vit_base_patch16_227', not known.*close"),
        ({"architecture": ["vit"]}, "not known here"),
        ({"architecture": "vit_base_patch16_xp_224"}, "no model with `block_fn`"),
        ({"global_pool": "avg"}, "two values of `global_pool`"),
        ({"num_classes": 7}, "two values of `num_classes`"),
    ],
)
def test_a_name_that_is_unknown_or_of_another_model_is_refused(facts, message, tmp_path):
    folder = changed("test_vit", tmp_path, **facts)
    with pytest.raises(CheckpointError, match=message):
        keras_vit.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 32}, "`embed_dim` 32, the arrays say 16"),
        ({"depth": 3}, "`depth` 3, the arrays say 2"),
        ({"depth": "2"}, "`depth` '2', the arrays say 2"),
        ({"num_heads": 3}, "3 does not divide 16"),
        ({"num_heads": True}, "True does not divide"),
        ({"patch_size": 8}, r"`patch_size` \(8, 8\), the arrays say \(4, 4\)"),
        ({"mlp_ratio": 2}, "`mlp_dim` 32, the arrays say 48"),
        ({"mlp_ratio": 1e308}, "`mlp_dim`"),
        ({"mlp_ratio": float("nan")}, "NaN is no number of JSON"),
        ({"class_token": False}, "`class_token` False"),
        ({"reg_tokens": 4}, "`reg_tokens` 4, the arrays say 0"),
        ({"num_classes": 5, "img_size": [16, 32]}, r"`img_size` \[16, 32\], which is not of"),
        ({"norm_layer": "batchnorm"}, "`norm_layer` 'batchnorm'"),
        ({"norm_layer": {"name": "layernorm", "eps": 1e308}}, "`norm_layer`"),
        ({"act_layer": "relu"}, "`act_layer` 'relu'"),
        ({"scale_mlp_norm": True}, "no model with `scale_mlp_norm` True"),
    ],
)
def test_arguments_that_the_arrays_contradict_are_refused(arguments, message, tmp_path):
    given = json.loads((NAMED / "test_vit" / "config.json").read_text())["model_args"]
    folder = changed("test_vit", tmp_path, model_args={**given, **arguments})
    with pytest.raises(CheckpointError, match=message):
        keras_vit.from_pretrained(folder)


def test_a_given_size_decides_whether_positions_have_a_row_for_the_class_token(
    assert_close, tmp_path
):
    # 16 x 24 pixels in patches of 4: 24 + 1 = 25 = 5 x 5.
    folder = changed("test_vit", tmp_path, architecture=None, model_args={"num_heads": 2})
    model = keras_vit.from_pretrained(folder, image_size=(16, 24))
    assert_close(*outputs(model, "test_vit"), PARITY)
    assert keras_vit.from_pretrained(folder).config.grid == (5, 5)


def bare(tmp_path, **config):
    """A bare timm file of a model with registers whose patches alone have positions."""
    small = {"patch_size": 4, "hidden_size": 64, "mlp_dim": 32, "num_heads": 1, "depth": 1}
    numbers = {"gelu": "exact", "layer_norm_epsilon": 1e-6, "num_classes": 2}
    model = keras_vit.create_model("ViT-Ti/16", **small, **numbers, **config)
    keras_vit.save_pretrained(model, tmp_path / "whole", format="timm")
    path = tmp_path / "bare.safetensors"
    (tmp_path / "whole" / "model.safetensors").rename(path)
    return path


@pytest.mark.parametrize(
    ("config", "size"),
    [
        # 6 rows: 2 x 3 patches, or a class token, a register and 2 x 2.
        ({"image_size": (8, 12), "num_registers": 1}, (8, 12)),
        # 9 rows: 3 x 3 patches, or a class token, four registers and 2 x 2.
        ({"image_size": 12, "num_registers": 4}, None),
        ({"image_size": 8, "num_registers": 4, "register_positions": True}, None),
    ],
)
def test_positions_that_may_be_of_two_kinds_are_refused(config, size, tmp_path):
    path = bare(tmp_path, **config)
    with pytest.raises(CheckpointError, match='{"no_embed_class": true}} or false'):
        keras_vit.from_pretrained(path, image_size=size)
    told = {"no_embed_class": not config.get("register_positions", False), "num_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_args": told}))
    read = keras_vit.from_pretrained(path, image_size=size).config
    assert read.num_registers == config["num_registers"]
    assert read.register_positions is not told["no_embed_class"]


def test_a_size_and_a_square_number_say_together_that_registers_have_no_positions(tmp_path):
    path = bare(tmp_path, image_size=12, num_registers=4)
    assert keras_vit.from_pretrained(path, image_size=12).config.grid == (3, 3)


def test_what_a_bare_file_leaves_open_is_said(tmp_path, caplog):
    folder = changed("test_vit", tmp_path, architecture=None, model_args={"num_heads": 2})
    with caplog.at_level(standard_logging.WARNING, logger=logging.get_absl_logger().name):
        logging.get_absl_logger().addHandler(caplog.handler)
        keras_vit.from_pretrained(folder, image_size=(16, 24))
        logging.get_absl_logger().removeHandler(caplog.handler)
    assert "the exact GELU" in caplog.text
    assert "heads" not in caplog.text
    assert "positions of the patches alone" not in caplog.text


def test_positions_that_are_taken_for_those_of_the_patches_alone_are_said(tmp_path, caplog):
    folder = changed("test_vit", tmp_path, architecture=None, model_args={"num_heads": 2})
    logging.get_absl_logger().addHandler(caplog.handler)
    keras_vit.from_pretrained(folder)  # 25 = 5 x 5
    logging.get_absl_logger().removeHandler(caplog.handler)
    assert "positions of the patches alone" in caplog.text


def test_every_name_of_the_table_has_known_arguments():
    known = {*timm_arguments.DEFAULTS, *timm_arguments.REQUIRED, *timm_arguments.OTHERS}
    table = timm_arguments.named_models()
    assert len(table) > 200
    assert {key for row in table.values() for key in row} <= known
    # F10: what its name alone tells.
    assert table["vit_base_patch16_gap_224"]["num_heads"] == 16
    assert table["vit_base_patch16_siglip_gap_512"].get("act_layer", "gelu") == "gelu"


@pytest.mark.parametrize("where", ["model_args", "pretrained_cfg"])
def test_pixels_that_fill_no_patch_are_left_out(where, tmp_path):
    name = "vit_base_patch16_siglip_224"
    whole = keras_vit.from_pretrained(NAMED / name)
    config = json.loads((NAMED / name / "config.json").read_text())
    height, width = whole.config.image_size
    size = [height + 3, width + 1]
    facts = {"model_args": {**config["model_args"], "img_size": size}}
    if where == "pretrained_cfg":
        del facts["model_args"]["img_size"]
        facts["pretrained_cfg"] = {**config["pretrained_cfg"], "input_size": [3, *size]}
    model = keras_vit.from_pretrained(changed(name, tmp_path, **facts))
    assert model.config.image_size == tuple(size)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype("float32")
    np.testing.assert_array_equal(
        model.predict_on_batch(images), whole.predict_on_batch(images[:, :height, :width])
    )
