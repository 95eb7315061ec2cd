"""Every reference file into every format that can hold it, and the way back."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers.files import open_container
from keras_vit.checkpoints.formats.registry import FORMATS
from keras_vit.errors import CheckpointError
from keras_vit.zoo import conversion as convert_module
from keras_vit.zoo.conversion import convert

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
TORCH = ("timm", "huggingface")
# Source -> the formats that can hold it, and the image size where no array tells it.
CASES = {
    "vit_jax/vit_token.npz": ({"vit_jax", "big_vision", *TORCH}, None),
    "vit_jax/vit_gap.npz": ({"vit_jax", "big_vision", "timm"}, (16, 24)),
    "vit_jax/vit_prelogits.npz": ({"vit_jax", "big_vision", "timm"}, None),
    "vit_jax/hybrid.npz": ({"vit_jax"}, None),
    "vit_jax/hybrid_stem.npz": ({"vit_jax"}, None),
    "bit/bit.npz": ({"bit"}, None),
    "big_vision/tok.npz": ({"vit_jax", "big_vision", *TORCH}, None),
    "big_vision/map_scan.npz": ({"big_vision", "timm", "huggingface_siglip"}, None),
    "big_vision/gap_sincos.npz": ({"big_vision"}, (16, 16)),
    "big_vision/gap_bfloat16.npz": ({"vit_jax", "big_vision", "timm"}, None),
    "torch/timm_vit": ({*TORCH, "keras_hub"}, None),
    "torch/hf_vit": ({"huggingface", "keras_hub"}, None),
    "keras_hub/preset": ({"timm", "keras_hub"}, None),
    "keras_hub/weights/gap.weights.h5": ({"timm", "keras_hub"}, None),
}
ENDINGS = {"timm": "f/model.safetensors", "huggingface": "f/model.safetensors", "keras_hub": "f.h5"}


def main_file(path):
    folders = ("model.safetensors", "model.weights.h5")
    return next((path / n for n in folders if (path / n).exists()), path)


def stored(path):
    """Key -> bytes of every array, as it lies in the file."""
    container = open_container(main_file(path))
    keys = [key for key in container.shapes if not key.startswith(("task.weights.h5/opt", "opt"))]
    return {key: array.tobytes() for key, array in container.read(keys).items()}, container.half


@pytest.mark.parametrize("name", CASES)
def test_convert_to_keras_and_back_gives_the_file_bit_for_bit(name, tmp_path):
    _, image_size = CASES[name]
    source = REFERENCE / name
    report = convert(source, tmp_path / "model.keras", image_size=image_size)
    assert report.differences == dict.fromkeys(report.differences, 0.0)
    back = tmp_path / "back" / main_file(source).name
    convert(tmp_path / "model.keras", back, format=report.source_format)
    assert stored(back) == stored(source)
    assert sorted(os.listdir(tmp_path)) == ["back", "model.keras"]


@pytest.mark.parametrize("name", CASES)
def test_convert_to_any_format_is_the_same_model_or_an_error_that_says_why(name, tmp_path):
    formats, image_size = CASES[name]
    for format_ in FORMATS:
        path = tmp_path / format_ / ENDINGS.get(format_, "f.npz")
        if format_ not in formats:
            with pytest.raises(CheckpointError, match=f"{format_} cannot hold"):
                convert(REFERENCE / name, path, format=format_, image_size=image_size)
            assert not path.exists()
            continue
        report = convert(REFERENCE / name, path, format=format_, image_size=image_size)
        assert max(report.differences.values()) <= convert_module.TOLERANCE
        assert set(report.files) == set(os.listdir(path.parent))
        again = keras_vit.from_pretrained(path, image_size=report.image_size)
        assert again.origin["format"] == format_


def test_convert_reports_what_happens_to_every_array(tmp_path):
    source = REFERENCE / "vit_jax" / "vit_prelogits.npz"
    report = convert(
        source, tmp_path / "f", format="huggingface", num_classes=3, image_size=24, dtype="float16"
    )
    by_variable = {}
    for array in report.arrays:
        by_variable.setdefault(array.variable, []).append(array)
    (positions,) = by_variable["posembed_input/embedding"]
    assert positions.changes == ("renamed", "resized", "rounded")
    assert (positions.source_shape, positions.target_shape) == ((1, 17, 24), (1, 37, 24))
    (query,) = by_variable["encoderblock_0/attention/query_kernel"]
    assert query.changes == ("renamed", "transposed", "rounded")
    assert query.target == "vit.encoder.layer.0.attention.attention.query.weight"
    old, new = by_variable["head/kernel"]
    assert (old.changes, old.source, old.target) == (("dropped",), "head/kernel", None)
    assert (new.changes, new.source, new.target) == (("new",), None, "classifier.weight")
    assert [a.changes for a in by_variable["pre_logits/bias"]] == [("dropped",)]
    assert report.counts["rounded"] == len(report.arrays) - report.counts["dropped"] - 2
    assert (report.dtype, report.num_classes, report.image_size) == ("float16", 3, (24, 24))
    assert 0 < report.rounding["features"] < 1e-2
    assert open_container(tmp_path / "f" / "model.safetensors").half == "float16"


def test_convert_tells_parts_stacks_and_folded_positions_apart(tmp_path):
    report = convert(REFERENCE / "torch" / "timm_vit", tmp_path / "h", format="huggingface")
    changes = {a.variable: a.changes for a in report.arrays}
    assert changes["encoderblock_1/attention/key_bias"] == ("renamed", "split")
    assert changes["embedding/kernel"] == ("renamed",)
    report = convert(REFERENCE / "vit_jax" / "vit_token.npz", tmp_path / "b.npz", "big_vision")
    changes = {a.variable: a.changes for a in report.arrays}
    assert changes["posembed_input/embedding"] == ("renamed", "folded")
    assert changes["head/bias"] == ("renamed",)
    assert {a.target for a in report.arrays if a.source == "head/bias"} == {"params/head/bias"}


def test_convert_keeps_what_is_no_variable_in_the_report(reference_case, tmp_path):
    arrays = reference_case("vit_jax/vit_token").arrays()
    np.savez(tmp_path / "f.npz", **arrays, **{"opt/state/step": np.float32(1)})
    report = convert(tmp_path / "f.npz", tmp_path / "g.npz", format="vit_jax")
    assert report.unused == ("opt/state/step",)
    assert report.counts["unchanged"] == len(arrays) == len(report.arrays)


def test_convert_dry_run_reads_no_number_and_writes_nothing(tmp_path, monkeypatch):
    source = REFERENCE / "vit_jax" / "vit_token.npz"
    expected = convert(source, tmp_path / "done", format="timm")
    monkeypatch.setattr(
        "keras_vit.checkpoints.containers.npz.read_arrays",
        lambda *_: pytest.fail("numbers were read"),
    )
    report = convert(source, tmp_path / "new", format="timm", dry_run=True)
    assert report.differences is None
    assert (report.arrays, report.lost) == (expected.arrays, expected.lost)
    assert set(report.files) == set(expected.files)
    assert os.listdir(tmp_path) == ["done"]


def test_convert_does_not_publish_a_file_that_fails_its_proof(tmp_path, monkeypatch):
    save = convert_module.save_pretrained

    def damaged(model, path, **kwargs):
        kernel = model.get_layer("encoderblock_1").mlp.dense_2.kernel
        kernel.assign(kernel * 1.01)
        return save(model, path, **kwargs)

    monkeypatch.setattr(convert_module, "save_pretrained", damaged)
    with pytest.raises(CheckpointError, match="not the same model: features differ by .*not pub"):
        convert(REFERENCE / "vit_jax" / "vit_token.npz", tmp_path / "f.npz", format="vit_jax")
    assert os.listdir(tmp_path) == []

    def other_rounding(model, path, dtype, **kwargs):
        if dtype == "bfloat16":
            model.get_layer("head").bias.assign_add([1.0] * 5)
        return save(model, path, dtype=dtype, **kwargs)

    monkeypatch.setattr(convert_module, "save_pretrained", other_rounding)
    with pytest.raises(CheckpointError, match="'head/bias' was not written as it should be"):
        convert(
            REFERENCE / "vit_jax" / "vit_token.npz",
            tmp_path / "f.npz",
            format="vit_jax",
            dtype="bfloat16",
        )
    assert os.listdir(tmp_path) == []


def test_convert_refuses_numbers_that_sixteen_bits_cannot_hold(reference_case, tmp_path):
    arrays = reference_case("vit_jax/vit_token").arrays()
    arrays["embedding/bias"][0] = 1e6
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(CheckpointError, match="'embedding/bias' has values that float16 cannot"):
        convert(tmp_path / "f.npz", tmp_path / "g.npz", format="vit_jax", dtype="float16")
    assert os.listdir(tmp_path) == ["f.npz"]


def test_convert_keeps_sixteen_bits_only_where_nothing_is_lost(tmp_path):
    source = REFERENCE / "big_vision" / "gap_bfloat16.npz"
    same = convert(source, tmp_path / "a.npz", format="big_vision")
    assert same.dtype == "bfloat16"
    other = convert(source, tmp_path / "b.npz", format="vit_jax")
    assert (other.dtype, other.counts["widened"]) == ("float32", len(other.arrays))
    resized = convert(source, tmp_path / "c.npz", format="big_vision", image_size=32)
    assert resized.dtype == "float32"


def test_convert_replaces_files_only_where_asked(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "config.json").write_text("mine")
    source = REFERENCE / "vit_jax" / "vit_token.npz"
    with pytest.raises(CheckpointError, match=r"config\.json would be replaced"):
        convert(source, folder, format="huggingface")
    assert (folder / "config.json").read_text() == "mine"
    convert(source, folder, format="huggingface", overwrite=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit"
    assert sorted(os.listdir(tmp_path)) == ["f"]


def test_convert_carries_class_names_and_pixels_or_says_that_they_are_lost(tmp_path):
    folder = shutil.copytree(REFERENCE / "torch" / "hf_vit", tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    num_classes = keras_vit.from_pretrained(folder).config.num_classes
    names = [f"name {i}" for i in range(num_classes)]
    config["id2label"] = dict(enumerate(names))
    (folder / "config.json").write_text(json.dumps(config))
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    report = convert(folder, tmp_path / "hf", format="huggingface")
    assert report.lost == ()
    again = keras_vit.from_pretrained(tmp_path / "hf")
    assert again.class_names == tuple(names)
    assert again.preprocessing.mean == (0.485, 0.456, 0.406)
    report = convert(folder, tmp_path / "hub", format="keras_hub")
    assert report.lost == ("the class names: keras_hub has no place for them",)
    assert keras_vit.from_pretrained(tmp_path / "hub").preprocessing.antialias is True


@pytest.mark.parametrize(
    ("destination", "arguments", "message"),
    [
        ("f.npz", {}, "`format` must be one of vit_jax, .*, keras, as the name .* Received: None"),
        ("folder", {}, "`format` must be one of"),
        ("folder", {"format": "vit_jax"}, "vit_jax is a single file, whose name must end with"),
        ("f.npz", {"format": "keras"}, r"format keras and the ending \.keras go together"),
        ("f.keras", {"format": "timm"}, r"format keras and the ending \.keras go together"),
        ("f.npz", {"format": "vitjax"}, "unknown format. Received: 'vitjax'. Close: vit_jax"),
        ("f.keras", {"dtype": "float16"}, "a .keras file has float32 weights"),
        ("f.npz", {"format": "vit_jax", "dtype": "int8"}, "`dtype` must be one of float32"),
    ],
)
def test_convert_arguments_that_contradict_each_other_are_refused(
    destination, arguments, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        convert(REFERENCE / "vit_jax" / "vit_token.npz", tmp_path / destination, **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["bit/bit.npz", "vit_jax/hybrid.npz"])
def test_convert_approximate_replaces_constants_and_measures_what_they_change(
    name, tmp_path, monkeypatch
):
    source = REFERENCE / name
    with pytest.raises(CheckpointError, match="huggingface cannot hold `conv_epsilon`"):
        convert(source, tmp_path, "huggingface")
    report = convert(source, tmp_path, "huggingface", approximate=True)
    assert report.replaced["conv_epsilon"][1] == 1e-8
    assert all(0 < value <= 2e-2 for value in report.approximation.values())
    again = keras_vit.from_pretrained(tmp_path, image_size=report.image_size)
    assert again.config.conv_epsilon == 1e-8
    monkeypatch.setattr(convert_module, "MAX_APPROXIMATION", 1e-9)
    with pytest.raises(CheckpointError, match="constants of huggingface change .* not published"):
        convert(source, tmp_path / "b", "huggingface", approximate=True)
    assert not (tmp_path / "b").exists()


def test_convert_approximate_changes_nothing_where_nothing_has_to(tmp_path):
    report = convert(REFERENCE / "torch" / "timm_vit", tmp_path, "timm", approximate=True)
    assert (report.replaced, report.approximation) == ({}, None)
