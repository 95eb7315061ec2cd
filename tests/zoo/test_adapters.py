"""LoRA adapters in PEFT's files; the reference was made by PEFT (tests/reference/peft)."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.errors import CheckpointError
from keras_vit.training.tuning import merge_lora, set_tune
from keras_vit.zoo.adapters import ARRAYS, CONFIG, adapter_of, load_adapter, save_adapter
from tests.tiny import make_model

PEFT = pathlib.Path(__file__).parents[1] / "reference" / "peft"
# float32 through two blocks with weights of about 0.5, in another order; logits are about 1.
ATOL = 5e-6


def base(name="base"):
    return keras_vit.from_pretrained(PEFT / name)


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.mark.parametrize(
    ("name", "version", "source"),
    [("all_kernels", 4, "base"), ("rank_stabilized", 5, "base"), ("dinov2", 5, "base_dinov2")],
)
def test_an_adapter_of_peft_gives_its_outputs_and_is_written_as_it_was(
    name, version, source, tmp_path
):
    reference = np.load(PEFT / name / "ref.npz")
    images, model = reference["images"], base(source)
    np.testing.assert_allclose(logits(model, images), reference["base"], atol=ATOL)
    load_adapter(model, PEFT / name)
    np.testing.assert_allclose(logits(model, images), reference["logits"], atol=ATOL)

    save_adapter(model, tmp_path / "again", transformers=version, base=source)
    theirs, ours = load_file(PEFT / name / ARRAYS), load_file(tmp_path / "again" / ARRAYS)
    if name == "rank_stabilized":  # it has no head; ours is always there
        ours = {key: array for key, array in ours.items() if ".classifier." not in key}
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_array_equal(ours[key], array)
    config = json.loads((tmp_path / "again" / CONFIG).read_text())
    their_config = json.loads((PEFT / name / CONFIG).read_text())
    scale = their_config["lora_alpha"] / their_config["r"] ** (
        0.5 if their_config["use_rslora"] else 1
    )
    assert config["lora_alpha"] / config["r"] == pytest.approx(scale)
    assert config["modules_to_save"] == ["classifier"]
    assert set(config) <= set(their_config)
    # PEFT takes a name for each module whose path ends with it; ours are whole paths.
    ends = tuple(f".{target}" for target in their_config["target_modules"])
    modules = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in theirs}
    modules = {module for module in modules if module.endswith(ends)}
    assert set(config["target_modules"]) == modules

    merge_lora(model)
    np.testing.assert_allclose(logits(model, images), reference["logits"], atol=ATOL)


def test_merged_kernels_are_what_every_file_holds(tmp_path):
    reference = np.load(PEFT / "all_kernels" / "ref.npz")
    model = load_adapter(base(), PEFT / "all_kernels")
    keras_vit.save_pretrained(model, tmp_path / "hf", format="huggingface")
    model.save(tmp_path / "m.keras")
    for path in (tmp_path / "hf", tmp_path / "m.keras"):
        received = logits(keras_vit.from_pretrained(path), reference["images"])
        np.testing.assert_allclose(received, reference["logits"], atol=ATOL)
    as_keras = keras.saving.load_model(tmp_path / "m.keras")
    received = logits(as_keras, reference["images"])
    np.testing.assert_allclose(received, reference["logits"], atol=ATOL)
    assert not [v.path for v in as_keras.weights if "lora" in v.path]
    # The model itself still has its adapters.
    assert [v.path for v in model.weights if v.path.endswith("query_kernel_lora/a")]


def damaged(folder, change_arrays=None, **config):
    """A copy of PEFT's adapter with other arrays or entries of its configuration."""
    shutil.copytree(PEFT / "all_kernels", folder)
    facts = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**facts, **config}))
    if change_arrays:
        arrays = load_file(folder / ARRAYS)
        change_arrays(arrays)
        save_file(arrays, folder / ARRAYS)
    return folder


KEY = "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_"
DAMAGES = {
    "another_kind": ({"use_dora": True}, None, "`use_dora` True is another kind"),
    "no_lora": ({"peft_type": "IA3"}, None, "`peft_type` 'IA3' is not LORA"),
    "its_biases": ({"bias": "all"}, None, "`bias` 'all'"),
    "another_rank": ({"r": 3}, None, "says rank 3"),
    "no_rank": ({"r": "2"}, None, "`r` must be a number from 1"),
    "half": ({}, lambda arrays: arrays.pop(KEY + "B.weight"), "B.weight .* is missing"),
    "unknown": ({}, lambda arrays: arrays.update(x=np.ones(2, "f4")), r"\+ x .* no place"),
    "another_shape": (
        {},
        lambda arrays: arrays.update({KEY + "B.weight": np.ones((8, 2), "f4")}),
        r"has the shape \(8, 2\), expected \(16, 2\)",
    ),
    "half_a_head": (
        {},
        lambda arrays: arrays.pop("base_model.model.classifier.bias"),
        "classifier.bias .* is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_does_not_fit_is_refused_and_the_model_stays_as_it_was(name, tmp_path):
    config, change, message = DAMAGES[name]
    model = base()
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    with pytest.raises(CheckpointError, match=message):
        load_adapter(model, damaged(tmp_path / "a", change, **config))
    assert [v.path for v in model.weights] == list(before)
    for variable in model.trainable_weights:
        np.testing.assert_array_equal(variable, before[variable.path])


def test_models_without_adapters_or_with_two_are_refused(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match="must have LoRA adapters"):
        save_adapter(model, tmp_path)
    set_tune(model, "lora:2")
    with pytest.raises(ValueError, match="must have no adapters"):
        load_adapter(model, PEFT / "all_kernels")
    with pytest.raises(ValueError, match="must be 4, 5 or None"):
        save_adapter(model, tmp_path, transformers=3)
    other = make_model(pooling="mean", class_token=False)
    set_tune(other, "lora:1")
    with pytest.raises(CheckpointError, match="PEFT's models cannot hold"):
        save_adapter(other, tmp_path)
    with pytest.raises(TypeError, match="must be a model of keras_vit"):
        save_adapter(keras.Sequential([keras.Input((3,))]), tmp_path)


MEAN_POOLED = {"pooling": "mean", "class_token": False}


def test_a_model_that_transformers_lacks_has_an_adapter_in_our_own_names(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    model = make_model(**MEAN_POOLED)
    set_tune(model, "lora:2", lora_alpha=3)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(0.1 * rng.normal(size=variable.shape))
    adapter_of(model).write(tmp_path / "run")  # as a run's folder has it
    save_adapter(model, tmp_path / "own", transformers=None)
    arrays = load_file(tmp_path / "own" / ARRAYS)
    assert arrays.keys() == load_file(tmp_path / "run" / ARRAYS).keys()
    prefix = "base_model.model."
    assert arrays[f"{prefix}encoderblock_0.attention.query.lora_A.weight"].shape == (2, 16)
    assert arrays[f"{prefix}encoderblock_0.mlp.dense_1.lora_B.weight"].shape == (32, 2)
    config = json.loads((tmp_path / "own" / CONFIG).read_text())
    assert config["modules_to_save"] == ["head"]
    again = load_adapter(make_model(**MEAN_POOLED), tmp_path / "own")
    np.testing.assert_array_equal(logits(again, images), logits(model, images))
    with pytest.raises(CheckpointError, match=r"has the shape \(3, 16\), expected \(3, 32\)"):
        load_adapter(make_model(**MEAN_POOLED, hidden_size=32), tmp_path / "own")
