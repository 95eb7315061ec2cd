"""`.keras` files as data: every part that is not what our models write is refused by name."""

import json
import zipfile

import numpy as np
import pytest

import keras_vit
from keras_vit.errors import CheckpointError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    model = keras_vit.create_model(
        "ViT-B/16", patch_size=8, hidden_size=8, mlp_dim=12, num_heads=2, depth=1,
        image_size=16, num_classes=2, class_names=["cat", "dog"],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model.save(path)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_good_file_brings_configuration_names_and_weights(good, tmp_path):
    model = keras_vit.from_pretrained(good)
    assert model.class_names == ("cat", "dog")
    assert model.config.patch_size == (8, 8)
    assert model.origin == {"file": "model.keras"}
    again = keras_vit.from_pretrained(write(tmp_path / "again.keras", members_of(good)))
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


CHANGES = {
    "unknown field": (("config", "config", "more"), 1, "has the fields patch_size"),
    "type": (
        ("config", "config", "depth"),
        "1",
        "`depth` of a VisionTransformerConfig cannot be 1",
    ),
    "truth": (("config", "config", "depth"), True, "cannot be True"),
    "range": (("config", "config", "num_heads"), 3, "`num_heads` must divide"),
    "not finite": (("config", "config", "layer_norm_epsilon"), float("nan"), "NaN is no number"),
    "object": (("config", "config", "gelu"), {"class_name": "Lambda"}, "`gelu` .* cannot be"),
    "depth": (("config", "config", "depth"), 10**9, "blocks are more than its 24 arrays can fill"),
    "width": (("config", "config", "mlp_dim"), 13, r"has the shape \(8, 12\), expected \(8, 13\)"),
    "part": (("config", "more"), 1, "it must hold"),
    "quantized part": (
        ("config", "quantized"),
        ["embedding/x"],
        "'embedding/x' has no kernel of 8",
    ),
    "quantized type": (("config", "quantized"), "head", "`quantized` is no list of layers"),
    "quantized bits": (("config", "quantized"), ["head"], r"head/kernel_scale \(2,\) is missing"),
    "names": (("config", "class_names"), ["cat"], "are not 2 texts"),
    "pixels": (("config", "preprocessing", "image_size"), [8, 8], "images of the model.s size"),
    "rule": (("config", "preprocessing", "resize"), "crop", "`resize` must be one of"),
    "origin": (("config", "origin"), {"format": 3}, "no table of texts"),
    "layout": (("config", "origin"), {"format": "vit_jax", "layout": "x"}, "has the layout 'x'"),
    "class": (("registered_name",), "keras_vit>Dense", "there is no model 'Dense'"),
    "package": (("registered_name",), "keras>Dense", "holds a VisionTransformer and no model of"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_that_is_not_ours_is_refused(name, good, tmp_path):
    *place, last = CHANGES[name][0]
    members = members_of(good)
    config = json.loads(members["config.json"])
    table = config
    for key in place:
        table = table[key]
    table[last] = CHANGES[name][1]
    members["config.json"] = json.dumps(config)
    with pytest.raises(CheckpointError, match=CHANGES[name][2]):
        keras_vit.from_pretrained(write(tmp_path / "bad.keras", members))


def test_members_that_are_not_ours_are_refused(good, tmp_path):
    members, path = members_of(good), tmp_path / "bad.keras"
    with pytest.raises(CheckpointError, match=r"\+ assets/x is not known"):
        keras_vit.from_pretrained(write(path, {**members, "assets/x": b""}))
    less = {name: content for name, content in members.items() if name != "model.weights.h5"}
    with pytest.raises(CheckpointError, match=r"- model.weights.h5 is missing"):
        keras_vit.from_pretrained(write(path, less))
    with pytest.raises(CheckpointError, match="is compressed, which Keras does not do"):
        keras_vit.from_pretrained(write(path, members, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        keras_vit.from_pretrained(write(path, {**members, "config.json": b"{"}))
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="not a .keras file but a web page"):
        keras_vit.from_pretrained(path)


def test_a_flipped_bit_in_the_weights_is_noticed(good, tmp_path):
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        place = archive.getinfo("model.weights.h5").header_offset
    data[place + len(data) // 2] ^= 1
    path = tmp_path / "bad.keras"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        keras_vit.from_pretrained(path)
