"""Folders that transformers wrote: the same outputs, the same files back, and lies refused."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers import safetensors
from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.checkpoints.containers.files import write_safetensors
from keras_vit.errors import CheckpointError
from keras_vit.zoo import opening

NAMED = pathlib.Path(__file__).parents[2] / "reference" / "torch" / "hf_named"
# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5
# Folder -> (fields of the model, the layer that the reference's output is of; None: the model's).
FOLDERS = {
    "vit_raw_names": ({"num_classes": 5, "layer_norm_epsilon": 1e-12}, None),
    "vit_backbone": ({"num_classes": 0, "representation_size": 48}, "encoder_norm"),
    "deit_distilled": ({"pooling": "distillation", "distillation_token": True}, None),
    "dinov2": ({"pooling": "token_patch_mean", "layer_scale": 1.0}, None),
    "dinov2_backbone": ({"mask_token": True}, "encoder_norm"),
    "dinov2_registers": ({"num_registers": 4}, "encoder_norm"),
    "siglip_vision": ({"pooling": "attention", "gelu": "tanh"}, None),
    "clip_vision": ({"gelu": "quick", "pre_norm": True, "layer_norm_epsilon": 1e-5}, None),
    "clip_vision_projection": ({"num_classes": 24, "use_head_bias": False}, None),
}


def stored(path):
    return read_stored(path, safetensors.read_headers(path))


def written(name, folder, rename=None, **config):
    """A reference folder with other keys, or another config.json; None removes an entry."""
    arrays = stored(NAMED / name / "model.safetensors")
    arrays = {rename(key) if rename else key: array for key, array in arrays.items()}
    write_safetensors(folder / "model.safetensors", arrays)
    config = {**json.loads((NAMED / name / "config.json").read_text()), **config}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_outputs(model, name, assert_close):
    layer = FOLDERS[name][1]
    output = model.get_layer(layer).output if layer else model.output
    with np.load(NAMED / name / "ref.npz") as file:
        assert_close(keras.Model(model.input, output)(file["images"]), file["outputs"], PARITY)


def assert_same_arrays(path, expected):
    found = stored(path)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs_are_those_of_transformers_and_files_come_back(name, assert_close, tmp_path):
    model = keras_vit.from_pretrained(NAMED / name)
    for field, value in FOLDERS[name][0].items():
        assert getattr(model.config, field) == value
    assert_outputs(model, name, assert_close)
    path = keras_vit.save_pretrained(model, tmp_path / "model.safetensors")
    assert_same_arrays(path, stored(NAMED / name / "model.safetensors"))
    again, original = (
        json.loads((p / "config.json").read_text()) for p in (tmp_path, NAMED / name)
    )
    for field in ("architectures", "model_type", "num_attention_heads", "patch_size"):
        assert again[field] == original[field]
    assert keras_vit.from_pretrained(path).config == model.config


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "_orig_mod.", "model._orig_mod.", "net."]
)
@pytest.mark.parametrize("name", ["vit_raw_names", "dinov2"])
def test_what_a_wrapper_puts_before_all_names_is_taken_off(name, prefix, assert_close, tmp_path):
    folder = written(name, tmp_path, lambda key: prefix + key)
    assert_outputs(keras_vit.from_pretrained(folder), name, assert_close)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("vit_raw_names", {"num_attention_heads": 5}, "divide 48. Received: 5"),
        ("vit_raw_names", {"num_attention_heads": None}, "divide 48. Received: None"),
        ("vit_raw_names", {"num_hidden_layers": 3}, "`num_hidden_layers` 3, the arrays say 2"),
        ("vit_raw_names", {"intermediate_size": 95}, "`intermediate_size` 95"),
        ("vit_raw_names", {"image_size": 64}, "`image_size` 64, not of 36 patches"),
        ("vit_raw_names", {"patch_size": 4}, "`patch_size`"),
        ("vit_raw_names", {"qkv_bias": False}, "`qkv_bias` False, the arrays say True"),
        ("vit_raw_names", {"model_type": "beit"}, "`model_type` 'beit'"),
        ("dinov2_registers", {"num_register_tokens": 3}, "`num_register_tokens` 3"),
        ("dinov2_registers", {"model_type": "dinov2"}, "`model_type` 'dinov2'"),
        ("dinov2", {"use_swiglu_ffn": True}, "`use_swiglu_ffn` True"),
        ("dinov2", {"mlp_ratio": 4}, "`mlp_ratio` 4"),
        ("dinov2", {"mlp_ratio": 1e300}, r"`mlp_ratio` 1e\+300"),
        ("dinov2", {"image_size": [56, 70]}, "`image_size`"),
        ("dinov2", {"hidden_act": "relu"}, "'relu' is not one"),
        ("clip_vision", {"hidden_act": "relu"}, "'relu' is not one"),
        ("clip_vision", {"layer_norm_eps": -5.0}, "Received: -5.0"),
        ("clip_vision", {"model_type": "siglip_vision_model"}, "`model_type`"),
        ("clip_vision_projection", {"projection_dim": 32}, "`projection_dim` 32"),
        ("siglip_vision", {"hidden_size": 96}, "`hidden_size` 96, the arrays say 48"),
        ("siglip_vision", {"num_attention_heads": "4"}, "Received: '4'"),
    ],
)
def test_a_config_json_that_lies_is_refused(name, config, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        keras_vit.from_pretrained(written(name, tmp_path, **config))


def test_a_file_with_both_towers_gives_the_image_tower(assert_close, tmp_path):
    original = json.loads((NAMED / "clip_vision_projection" / "config.json").read_text())
    arrays = stored(NAMED / "clip_vision_projection" / "model.safetensors")
    arrays |= {"text_model.final_layer_norm.weight": np.ones(8, "float32")}
    arrays |= {"text_projection.weight": np.ones((24, 8), "float32")}
    arrays |= {"logit_scale": np.ones((), "float32")}
    write_safetensors(tmp_path / "model.safetensors", arrays)
    config = {"model_type": "clip", "vision_config": original, "projection_dim": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = keras_vit.from_pretrained(tmp_path)
    assert_outputs(model, "clip_vision_projection", assert_close)


@pytest.mark.parametrize("ending", ["pth", "pt", "bin"])
def test_a_pickle_is_named_with_the_lines_that_convert_it(ending, tmp_path):
    path = tmp_path / f"model.{ending}"
    path.write_bytes(b"\x80\x02}q\x00.")
    for source in (path, tmp_path) if ending == "pth" else (path,):
        with pytest.raises(CheckpointError, match=r"never loaded.*import save_file.*weights_only"):
            keras_vit.from_pretrained(source)


def test_other_formats_do_not_hold_what_they_lack(tmp_path):
    dinov2 = keras_vit.from_pretrained(NAMED / "dinov2_registers")
    with pytest.raises(CheckpointError, match="huggingface cannot hold `layer_scale` 1.0"):
        keras_vit.save_pretrained(dinov2, tmp_path / "m.safetensors", format="huggingface")
    path = keras_vit.save_pretrained(dinov2, tmp_path / "model.safetensors", format="timm")
    assert "mask_token" not in stored(path)
    again = keras_vit.from_pretrained(path)
    assert again.config.num_registers == 4
    images = np.zeros((1, 56, 56, 3), "float32")
    np.testing.assert_array_equal(again.predict(images), dinov2.predict(images))


def test_a_new_head_takes_the_place_of_both_of_a_distilled_model():
    model = keras_vit.from_pretrained(NAMED / "deit_distilled", num_classes=3)
    assert model.output_shape == (None, 3)
    for name in ("head", "head_dist"):
        assert not np.any(model.get_layer(name).kernel)
    assert keras_vit.from_pretrained(NAMED / "dinov2", num_classes=0).output_shape == (None, 96)


def test_a_model_with_every_part_is_a_keras_file_too(tmp_path):
    for name in ("deit_distilled", "dinov2_registers", "clip_vision_projection", "siglip_vision"):
        model = keras_vit.from_pretrained(NAMED / name)
        model.save(tmp_path / "m.keras")
        images = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:]))
        for again in (
            keras.models.load_model(tmp_path / "m.keras"),
            keras_vit.from_pretrained(tmp_path / "m.keras"),
        ):
            np.testing.assert_array_equal(again.predict(images), model.predict(images))
        assert model.count_params() == keras_vit.models.cost.count_parameters(model.config)
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_missing_or_ill_shaped_or_unknown_array_is_refused(name, tmp_path):
    original = stored(NAMED / name / "model.safetensors")
    (tmp_path / "config.json").write_bytes((NAMED / name / "config.json").read_bytes())
    # Without it, the model is the same.
    optional = ("embeddings.mask_token",)
    for key in sorted(original):
        ill = {**original, key: np.ones((*original[key].shape, 2), "float32")}
        missing = {k: a for k, a in original.items() if k != key}
        for arrays in (ill, missing):
            if key.endswith(optional) and arrays is missing:
                continue
            write_safetensors(tmp_path / "model.safetensors", arrays)
            with pytest.raises(CheckpointError):
                keras_vit.from_pretrained(tmp_path)
    more = {**original, "encoder.rel_pos_bias": np.ones(3, "float32")}
    write_safetensors(tmp_path / "model.safetensors", more)
    with pytest.raises(CheckpointError, match="rel_pos_bias .* not known"):
        keras_vit.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "value", [None, [], {}, "x" * 10_000, -1, 1 << 80, 1e308, float("nan"), True, [3, [4]]]
)
@pytest.mark.parametrize("name", ["vit_raw_names", "dinov2_registers", "clip_vision_projection"])
def test_no_value_in_a_config_json_is_more_than_a_refusal(name, value, tmp_path):
    config = json.loads((NAMED / name / "config.json").read_text())
    arrays = stored(NAMED / name / "model.safetensors")
    write_safetensors(tmp_path / "model.safetensors", arrays)
    for field in config:
        (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
        message = ""
        try:
            opening.open_file(tmp_path)
        except CheckpointError as error:
            message = str(error)
        assert len(message) < 2_000, field


@pytest.mark.parametrize("name", ["siglip_vision", "clip_vision", "vit_raw_names", "dinov2"])
def test_pixels_that_fill_no_patch_are_left_out(name, tmp_path):
    """As transformers' convolutions do: SigLIP's 384 px in patches of 14 are 27 x 27."""
    whole = keras_vit.from_pretrained(NAMED / name)
    height, width = whole.config.image_size
    folder = written(name, tmp_path, image_size=[height + 3, width + 5])
    model = keras_vit.from_pretrained(folder)
    assert model.input_shape[1:3] == (height + 3, width + 5) == model.preprocessing.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (2, height + 3, width + 5, 3))
    images = images.astype("float32")
    expected = whole.predict_on_batch(images[:, :height, :width])
    np.testing.assert_array_equal(model.predict_on_batch(images), expected)
    model.save(tmp_path / "m.keras")
    again = keras_vit.from_pretrained(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), expected)
    path = keras_vit.save_pretrained(model, tmp_path / "again")
    assert json.loads((path.parent / "config.json").read_text())["image_size"] == [
        height + 3,
        width + 5,
    ]
    assert keras_vit.from_pretrained(path).config == model.config
    free = keras_vit.from_pretrained(folder, dynamic_image_size=True)
    assert free.preprocessing.image_size == (height, width)
    with pytest.raises(CheckpointError, match="cannot hold `partial_patches` True"):
        keras_vit.save_pretrained(model, tmp_path / "m.npz", format="big_vision")
