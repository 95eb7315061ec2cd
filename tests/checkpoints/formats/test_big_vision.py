"""Files of big_vision in all their spellings."""

import keras
import ml_dtypes
import numpy as np
import pytest

import keras_vit
from keras_vit.errors import CheckpointError

# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5
CASES = ("tok", "gap_sincos", "map_scan", "gap_bfloat16")
# Outputs of the references -> our layers; `pre_logits` of the reference comes after the tanh.
OUTPUTS = {"outputs": None, "encoded": "encoder_norm", "pre_logits": "pre_logits"}


@pytest.fixture
def big_vision(reference_case):
    return lambda name: reference_case(f"big_vision/{name}")


def load(path, **arguments):
    """The model; the positions of a sine-cosine file do not tell its size."""
    return keras_vit.from_pretrained(path, image_size=16, **arguments)


def stored(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def assert_same_arrays(path, expected):
    found = stored(path)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_references_and_files_come_back(name, big_vision, assert_close, tmp_path):
    case = big_vision(name)
    model = load(case.path)
    tanh = "_tanh" if model.config.representation_size else ""
    layers = {k: n and n.replace("pre_logits", f"pre_logits{tanh}") for k, n in OUTPUTS.items()}
    outputs = {k: model.get_layer(n).output if n else model.output for k, n in layers.items()}
    for key, actual in keras.Model(model.input, outputs)(case.images).items():
        assert_close(actual, case.outputs[key], PARITY)
    assert_same_arrays(keras_vit.save_pretrained(model, tmp_path / "again.npz"), case.arrays())


def in_transformer(arrays):
    arrays["params/Transformer/pos_embedding"] = arrays.pop("params/pos_embedding")


def first_row_for_the_token(arrays):
    positions = arrays.pop("params/pos_embedding")
    first = np.full_like(positions[:, :1], 0.25)
    arrays["params/cls"] = arrays["params/cls"] - first
    arrays["params/Transformer/pos_embedding"] = np.concatenate([first, positions], axis=1)


def old_probe(arrays):
    for key in [key for key in arrays if "MAPHead_0/" in key]:
        arrays[key.replace("MAPHead_0/", "")] = arrays.pop(key)


def old_probe_and_positions(arrays):
    old_probe(arrays)
    key = "params/img/pos_embedding"
    arrays["params/img/Transformer/posembed_input/pos_embedding"] = arrays.pop(key)


def unstacked(arrays):
    for key in [key for key in arrays if "encoderblock/" in key]:
        for i, array in enumerate(arrays.pop(key)):
            arrays[key.replace("encoderblock/", f"encoderblock_{i}/")] = array


def under(prefix, siblings=()):
    def change(arrays):
        for key in list(arrays):
            bare = key.removeprefix("params/").removeprefix("img/")
            arrays[prefix + bare] = arrays.pop(key)
        arrays.update({key: np.ones(3, "float32") for key in siblings})

    return change


SPELLINGS = {
    "in_transformer": ("tok", in_transformer),
    "first_row": ("tok", first_row_for_the_token),
    "old_probe": ("map_scan", old_probe),
    "old_probe_and_positions": ("map_scan", old_probe_and_positions),
    "unstacked": ("map_scan", unstacked),
    "lit": ("map_scan", under("img/", ["txt/head/bias", "t"])),
    "siglip": ("map_scan", under("params/img/", ["params/txt/x", "params/t", "params/b"])),
    "training_state": ("tok", under("params/", ["opt/0/mu/cls", "chrono/steps"])),
    "bare": ("gap_sincos", under("")),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_model_and_comes_back(
    spelling, big_vision, assert_close, tmp_path
):
    name, change = SPELLINGS[spelling]
    case, path = big_vision(name), tmp_path / "file.npz"
    arrays = case.arrays()
    change(arrays)
    np.savez(path, **arrays)
    model = load(path)
    assert model.origin["format"] == "big_vision"
    assert_close(model(case.images), case.outputs["outputs"], PARITY)
    kept = {k: a for k, a in arrays.items() if a.shape != (3,)}
    assert_same_arrays(keras_vit.save_pretrained(model, tmp_path / "again.npz"), kept)


def test_a_first_row_without_a_token_is_not_used(big_vision, assert_close, tmp_path):
    case = big_vision("gap_bfloat16")
    arrays = {k: a.view(ml_dtypes.bfloat16).astype("f4") for k, a in case.arrays().items()}
    key = "params/pos_embedding"
    arrays[key] = np.concatenate([np.ones((1, 1, 24), "f4"), arrays[key]], axis=1)
    np.savez(tmp_path / "file.npz", **arrays)
    model = load(tmp_path / "file.npz")
    assert_close(model(case.images), case.outputs["outputs"], PARITY)


def test_positions_of_the_token_are_folded_into_it(reference_case, assert_close, tmp_path):
    case = reference_case("vit_jax/vit_token")
    model = keras_vit.from_pretrained(case.path)
    path = keras_vit.save_pretrained(model, tmp_path / "file.npz", format="big_vision")
    assert stored(path)["params/pos_embedding"].shape == (1, 16, 24)
    assert_close(load(path)(case.images), case.outputs["logits"], PARITY)


def test_both_official_formats_take_what_they_share(big_vision, assert_close, tmp_path):
    case = big_vision("tok")
    path = keras_vit.save_pretrained(load(case.path), tmp_path / "tok.npz", format="vit_jax")
    again = load(path)
    assert again.origin["format"] == "vit_jax"
    assert_close(again(case.images), case.outputs["outputs"], PARITY)
    for name, reason in (
        ("map_scan", "`pooling` 'attention'"),
        ("gap_sincos", "`position_embedding` 'sincos2d'"),
    ):
        with pytest.raises(CheckpointError, match=f"vit_jax cannot hold {reason}"):
            keras_vit.save_pretrained(
                load(big_vision(name).path), tmp_path / "no.npz", format="vit_jax"
            )


def test_what_the_format_cannot_hold_is_named(reference_case, tmp_path):
    hybrid = keras_vit.from_pretrained(reference_case("vit_jax/hybrid_stem").path)
    with pytest.raises(CheckpointError, match="cannot hold a model of the family 'hybrid'"):
        keras_vit.save_pretrained(hybrid, tmp_path / "no.npz", format="big_vision")
    path = reference_case("vit_jax/vit_token").path
    odd = keras_vit.from_pretrained(path, pooling="mean", gelu="exact")
    with pytest.raises(CheckpointError, match="`pooling` 'mean'") as caught:
        keras_vit.save_pretrained(odd, tmp_path / "no.npz", format="big_vision")
    assert len(caught.value.problems) == 2


def test_a_number_of_patches_that_its_code_misreads_is_refused(tmp_path):
    fields = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1, "patch_size": 4}
    mean = {"class_token": False, "pooling": "mean"}
    model = keras_vit.create_model("ViT-Ti/16", image_size=(8, 20), **fields, **mean)
    with pytest.raises(CheckpointError, match="10 patches, which its code takes for a square"):
        keras_vit.save_pretrained(model, tmp_path / "no.npz", format="big_vision")


def test_trained_weights_are_not_cut_to_16_bits(big_vision, tmp_path):
    model = load(big_vision("gap_bfloat16").path)
    kernel = model.get_layer("head").kernel
    kernel.assign(kernel.value + 1e-3)
    found = stored(keras_vit.save_pretrained(model, tmp_path / "again.npz"))
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}


def test_sine_cosine_positions_need_the_image_size(big_vision):
    with pytest.raises(CheckpointError, match="no array of positions; .* give `image_size="):
        keras_vit.from_pretrained(big_vision("gap_sincos").path)


@pytest.mark.parametrize("name", ["tok", "map_scan"])
def test_every_missing_array_is_named(name, big_vision, tmp_path):
    arrays = big_vision(name).arrays()
    for key in arrays:
        np.savez(tmp_path / "bad.npz", **{k: a for k, a in arrays.items() if k != key})
        # Without the class token, it is a file that pools by the mean.
        if key == "params/cls":
            continue
        with pytest.raises(CheckpointError) as caught:
            keras_vit.from_pretrained(tmp_path / "bad.npz")
        text = str(caught.value)
        words = (
            key.removeprefix("params/").removeprefix("img/"),
            "architecture",
            "positions",
            "format",
            "not known",
        )
        assert any(word in text for word in words), (key, text)


def test_an_empty_stack_of_a_billion_blocks_takes_no_memory(big_vision, tmp_path):
    arrays = big_vision("map_scan").arrays()
    for key in ("scale", "bias"):
        arrays[f"params/img/Transformer/encoderblock/LayerNorm_0/{key}"] = np.zeros((10**9, 0))
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(CheckpointError, match="blocks are more than any model has"):
        keras_vit.from_pretrained(tmp_path / "bad.npz")
