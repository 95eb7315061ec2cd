"""Files of timm and of Hugging Face transformers."""

import json
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers import safetensors
from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.checkpoints.containers.files import write_safetensors
from keras_vit.errors import CheckpointError

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "torch"
# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5
# Reference -> the layer that its features are of; transformers gives those before the last norm.
FEATURES = {
    "timm_vit": ("features", "encoder_norm"),
    "hf_vit": ("last_hidden_state", "encoderblock_1"),
}
TIMM_NUMBERS = {
    "group_norm_epsilon": 1e-5,
    "conv_epsilon": 1e-8,
    "standardization": "variance",
    "gelu": "exact",
}


def stored(path):
    return read_stored(path, safetensors.read_headers(path))


def assert_same_arrays(path, expected):
    found = stored(path)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key


def copied(name, folder, change=None, config=None):
    """A reference case in a folder, with other arrays or another config.json."""
    arrays = stored(REFERENCE / name / "model.safetensors")
    if change is not None:
        change(arrays)
    write_safetensors(folder / "model.safetensors", arrays)
    original, config = json.loads((REFERENCE / name / "config.json").read_text()), config or {}
    if isinstance(config.get("model_args"), dict):
        config = {"model_args": {**original["model_args"], **config["model_args"]}}
    (folder / "config.json").write_text(json.dumps({**original, **config}))
    return folder


@pytest.mark.parametrize("name", FEATURES)
def test_outputs_are_the_references_and_files_come_back(name, assert_close, tmp_path):
    model = keras_vit.from_pretrained(REFERENCE / name)
    assert model.config.gelu == "exact"
    key, layer = FEATURES[name]
    with np.load(REFERENCE / name / "ref.npz") as file:
        outputs = [model.output, model.get_layer(layer).output]
        logits, features = keras.Model(model.input, outputs)(file["images"])
        assert_close(logits, file["logits"], PARITY)
        assert_close(features, file[key], PARITY)
    path = keras_vit.save_pretrained(model, tmp_path / "model.safetensors")
    assert_same_arrays(path, stored(REFERENCE / name / "model.safetensors"))
    again = keras_vit.from_pretrained(tmp_path)
    assert again.config == model.config


@pytest.mark.parametrize("name", FEATURES)
def test_every_missing_extra_or_ill_shaped_array_is_named(name, tmp_path):
    keys = sorted(stored(REFERENCE / name / "model.safetensors"))
    for key in keys:
        changes = [lambda a, key=key: a.update({key: np.ones((*a[key].shape, 2), "float32")})]
        # Without its class token, timm's is another kind of model, which is refused too.
        changes.append(lambda a, key=key: a.pop(key))
        for change in changes:
            copied(name, tmp_path, change)
            with pytest.raises(CheckpointError) as caught:
                keras_vit.from_pretrained(tmp_path)
            words = ("architecture", "known format", "pos_embed", "positions", "classifier")
            words = (key, *words, "the arrays say")
            assert any(word in str(caught.value) for word in words), (key, str(caught.value))
    copied(name, tmp_path, lambda a: a.update({"blocks.0.ls1.gamma": np.ones(24, "float32")}))
    with pytest.raises(CheckpointError, match="ls1.gamma .* is not known"):
        keras_vit.from_pretrained(tmp_path)


def test_the_number_of_heads_is_told_by_config_json_alone(tmp_path):
    for name, reason in (("timm_vit", "0 does not divide 24"), ("hf_vit", "must be beside it")):
        shutil.copy(REFERENCE / name / "model.safetensors", tmp_path)
        with pytest.raises(CheckpointError, match=f"number of heads.*{reason}"):
            keras_vit.from_pretrained(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("timm_vit", {"model_args": {"qk_norms": True}}, "known here: qk_norms"),
        ("timm_vit", {"model_args": {"act_layer": "relu"}}, "'relu' is not one"),
        ("timm_vit", {"model_args": {"global_pool": "max"}}, "`global_pool` 'max'"),
        ("timm_vit", {"model_args": 3}, "no object"),
        ("hf_vit", {"hidden_act": "relu"}, "'relu' is not one"),
        ("hf_vit", {"hidden_act": ["gelu"]}, r"\['gelu'\] is not one"),
        ("timm_vit", {"model_args": {"act_layer": {}}}, "{} is not one"),
        ("hf_vit", {"num_attention_heads": 5}, "divide 24. Received: 5"),
        ("hf_vit", {"layer_norm_eps": "small"}, "Received: 'small'"),
    ],
)
def test_a_config_json_of_another_model_is_refused(name, config, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        keras_vit.from_pretrained(copied(name, tmp_path, config=config))


def test_what_config_json_says_is_what_is_computed(tmp_path):
    config = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6}
    model = keras_vit.from_pretrained(copied("hf_vit", tmp_path, config=config))
    assert (model.config.gelu, model.config.layer_norm_epsilon) == ("tanh", 1e-6)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json: the file cannot be read"):
        keras_vit.from_pretrained(tmp_path)


def test_positions_of_a_rectangle_are_those_of_the_size_in_config_json(tmp_path):
    def wider(arrays):
        key = "vit.embeddings.position_embeddings"
        arrays[key] = np.zeros((1, 1 + 4 * 6, 24), "float32")

    config = {"image_size": [16, 24]}
    model = keras_vit.from_pretrained(copied("hf_vit", tmp_path, wider, config))
    assert model.config.image_size == (16, 24)
    assert keras_vit.from_pretrained(tmp_path, image_size=(24, 16)).config.grid == (6, 4)


def test_a_sharded_file_is_the_same_model(tmp_path):
    arrays = stored(REFERENCE / "hf_vit" / "model.safetensors")
    shutil.copy(REFERENCE / "hf_vit" / "config.json", tmp_path)
    names, keys = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"], sorted(arrays)
    for i, name in enumerate(names):
        write_safetensors(tmp_path / name, {key: arrays[key] for key in keys[i::2]})
    index = {"weight_map": {key: names[i % 2] for i, key in enumerate(keys)}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    model = keras_vit.from_pretrained(tmp_path)
    assert_same_arrays(keras_vit.save_pretrained(model, tmp_path / "o" / "m.safetensors"), arrays)

    index["weight_map"]["more"] = names[0]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="more is missing in model-1"):
        keras_vit.from_pretrained(tmp_path)
    index["weight_map"]["more"] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is no file beside it"):
        keras_vit.from_pretrained(tmp_path)


def test_positions_for_patches_alone_are_read_and_written_back(assert_close, tmp_path):
    def no_embed_class(arrays):
        positions = arrays["pos_embed"]
        arrays["cls_token"] = arrays["cls_token"] + positions[:, :1]
        arrays["pos_embed"] = positions[:, 1:]

    config = {"model_args": {"no_embed_class": True}}
    model = keras_vit.from_pretrained(copied("timm_vit", tmp_path, no_embed_class, config))
    with np.load(REFERENCE / "timm_vit" / "ref.npz") as file:
        assert_close(model(file["images"]), file["logits"], PARITY)
    path = keras_vit.save_pretrained(model, tmp_path / "again" / "model.safetensors")
    assert_same_arrays(path, stored(tmp_path / "model.safetensors"))
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["model_args"]["no_embed_class"] is True
    assert keras_vit.from_pretrained(path).config == model.config


@pytest.mark.parametrize("name", ["timm", "huggingface"])
def test_a_rectangle_with_a_square_number_of_tokens_is_told_by_config_json(name, tmp_path):
    fields = {"hidden_size": 64, "mlp_dim": 8, "num_heads": 1, "depth": 1, "gelu": "exact"}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, image_size=(48, 80), **fields)
    path = keras_vit.save_pretrained(model, tmp_path / "model.safetensors", format=name)
    again = keras_vit.from_pretrained(path)
    assert again.config == model.config
    assert_same_arrays(keras_vit.save_pretrained(again, tmp_path / "2.safetensors"), stored(path))


# Keys of timm and transformers for the same arrays, from the converter that transformers had.
PATCHES = "vit.embeddings.patch_embeddings"
PAIRS = (
    (r"patch_embed.backbone.stem.conv\.", PATCHES + ".backbone.bit.embedder.convolution."),
    (r"patch_embed.backbone.stem.norm\.", PATCHES + ".backbone.bit.embedder.norm."),
    (
        r"patch_embed.backbone.stages.(\d+).blocks\.",
        PATCHES + r".backbone.bit.encoder.stages.\1.layers.",
    ),
    (r"patch_embed.proj\.", PATCHES + ".projection."),
    (r"^stem.conv", "bit.embedder.convolution"),
    (r"^stages.(\d+).blocks\.", r"bit.encoder.stages.\1.layers."),
    (r"head.fc", "classifier.1"),
)


@pytest.mark.parametrize("family", ["hybrid", "bit"])
def test_resnets_of_both_libraries_are_written_and_read(
    family, reference_case, assert_close, tmp_path
):
    case = reference_case(f"{'vit_jax' if family == 'hybrid' else 'bit'}/{family}")
    numbers = {k: v for k, v in TIMM_NUMBERS.items() if family == "hybrid" or k == "conv_epsilon"}
    model = keras_vit.from_pretrained(case.path, image_size=case.image_size, **numbers)
    if family == "hybrid" and model.config.stage_depths not in ((3, 4, 9), (2, 2, 2, 2)):
        with pytest.raises(CheckpointError, match="timm cannot hold `stage_depths`"):
            keras_vit.save_pretrained(model, tmp_path / "model.safetensors", format="timm")
    else:
        keras_vit.save_pretrained(model, tmp_path / "t" / "model.safetensors", format="timm")
        again = keras_vit.from_pretrained(tmp_path / "t", image_size=case.image_size)
        assert again.config == model.config
    path = keras_vit.save_pretrained(model, tmp_path / "h" / "f.safetensors", format="huggingface")
    again = keras_vit.from_pretrained(path, image_size=case.image_size)
    assert again.config == model.config
    logits = [keras.ops.convert_to_numpy(m(case.images)) for m in (model, again)]
    np.testing.assert_array_equal(*logits)
    # Other epsilons, other numbers, but of the same model.
    assert_close(logits[0], case.outputs["logits"], 2e-2)


@pytest.mark.parametrize("preset", ["R+ViT-Ti/16", "R26+ViT-S/32", "BiT-R50x1"])
def test_keys_are_those_that_the_libraries_have(preset, tmp_path):
    if preset.startswith("BiT"):
        sizes = {"conv_epsilon": 1e-8, "width_factor": 0.5}
    else:
        sizes = {"hidden_size": 64, "mlp_dim": 8, "num_heads": 1, "depth": 1, **TIMM_NUMBERS}
    model = keras_vit.create_model(preset, num_classes=2, **sizes)
    timm = keras_vit.save_pretrained(model, tmp_path / "t.safetensors", format="timm")
    keys = set(stored(timm))
    again = keras_vit.from_pretrained(timm)
    assert again.config == model.config
    if preset == "R+ViT-Ti/16":
        assert "patch_embed.backbone.conv.weight" in keys
        with pytest.raises(CheckpointError, match="a hybrid without stages"):
            keras_vit.save_pretrained(model, tmp_path / "h.safetensors", format="huggingface")
        return
    theirs = set(
        stored(keras_vit.save_pretrained(model, tmp_path / "h.safetensors", format="huggingface"))
    )
    for key in keys:
        if key.startswith(("blocks", "norm", "head", "cls", "pos")) and "BiT" not in preset:
            continue
        renamed = "bit." + key if key.startswith("norm") else key
        for old, new in PAIRS:
            renamed = re.sub(old, new, renamed)
        assert renamed in theirs


def test_official_numbers_are_not_written_as_those_of_other_libraries(reference_case, tmp_path):
    hybrid = keras_vit.from_pretrained(reference_case("vit_jax/hybrid_stem").path)
    with pytest.raises(CheckpointError, match="timm cannot hold `standardization` 'deviation'"):
        keras_vit.save_pretrained(hybrid, tmp_path / "m.safetensors", format="timm")
    timm = keras_vit.from_pretrained(REFERENCE / "timm_vit")
    with pytest.raises(CheckpointError, match="vit_jax cannot hold `gelu` 'exact'"):
        keras_vit.save_pretrained(timm, tmp_path / "m.npz", format="vit_jax")
    with pytest.raises(CheckpointError, match=r"must end with \.npz, \.safetensors or \.h5"):
        keras_vit.save_pretrained(timm, tmp_path / "m.bin")


def test_a_format_does_not_depend_on_its_container(tmp_path):
    timm = keras_vit.from_pretrained(REFERENCE / "timm_vit")
    path = keras_vit.save_pretrained(timm, tmp_path / "m.npz")
    again = keras_vit.from_pretrained(path)
    assert again.origin["format"] == "timm"
    assert again.config == timm.config


def test_the_tanh_form_of_official_models_is_told_to_the_libraries(
    reference_case, assert_close, tmp_path
):
    case = reference_case("vit_jax/vit_token")
    model = keras_vit.from_pretrained(case.path)
    for name in ("timm", "huggingface"):
        keras_vit.save_pretrained(model, tmp_path / name / "model.safetensors", format=name)
        again = keras_vit.from_pretrained(tmp_path / name)
        assert again.config == model.config
        assert_close(again(case.images), case.outputs["logits"], PARITY)


def test_a_pooler_without_a_classifier_is_the_representation_layer(reference_case, tmp_path):
    case = reference_case("vit_jax/vit_prelogits")
    model = keras_vit.from_pretrained(case.path)
    with pytest.raises(CheckpointError, match="huggingface cannot hold `representation_size` 20"):
        keras_vit.save_pretrained(model, tmp_path / "m.safetensors", format="huggingface")
    fields = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1, "representation_size": 4}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=0, image_size=16, **fields)
    path = keras_vit.save_pretrained(model, tmp_path / "m.safetensors", format="huggingface")
    assert "vit.pooler.dense.weight" in stored(path)
    assert keras_vit.from_pretrained(path).config == model.config
