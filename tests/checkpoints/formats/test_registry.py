"""Which format a file is of, and that no file is of two."""

import json
import pathlib
import re

import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers.files import open_container
from keras_vit.checkpoints.formats.registry import FORMATS, find_format
from keras_vit.checkpoints.matching import match_file
from keras_vit.errors import CheckpointError

REFERENCE = pathlib.Path(__file__).parents[2] / "reference"
NUM_MUTANTS = 100
FOLDERS = {
    "timm_vit": "timm",
    "timm_named": "timm",
    **dict.fromkeys(("vit_raw_names", "vit_backbone", "deit_distilled"), "huggingface"),
    **dict.fromkeys(("dinov2", "dinov2_backbone", "dinov2_registers"), "huggingface_dinov2"),
    **dict.fromkeys(("clip_vision", "clip_vision_projection"), "huggingface_clip"),
    "siglip_vision": "huggingface_siglip",
    "hf_vit": "huggingface",
    "preset": "keras_hub",
    "weights": "keras_hub",
}
# The folders with checkpoints in them; the others hold numbers of other kinds.
CHECKPOINTS = ("big_vision", "bit", "keras_hub", "torch", "vit_jax")
# Outputs, and what is read together with the file beside it.
OTHERS = ("ref.npz", "task.weights.h5")


def reference_files():
    for path in sorted(p for folder in CHECKPOINTS for p in (REFERENCE / folder).rglob("*")):
        if path.suffix in (".npz", ".safetensors", ".h5") and not path.name.endswith(OTHERS):
            yield path


@pytest.mark.parametrize("path", reference_files(), ids=lambda path: path.parent.name + path.stem)
def test_a_file_is_of_exactly_one_format(path):
    keys = open_container(path).shapes
    found = find_format(path, keys)
    named = [FOLDERS.get(folder.name) for folder in path.parents[:2]]
    assert found.name == next(filter(None, named), path.parent.name)
    assert [f.name for f in FORMATS.values() if f.found_under(keys)] == [found.name]


def test_a_file_that_lost_any_one_array_is_never_of_two_formats():
    for path in reference_files():
        keys = set(open_container(path).shapes)
        for key in keys:
            assert sum(bool(f.found_under(keys - {key})) for f in FORMATS.values()) <= 1, key


def test_marks_of_two_formats_need_a_choice():
    keys = {"stem.conv.weight", "stages.0.blocks.0.conv1.weight", "root_block/conv_root/kernel"}
    with pytest.raises(
        CheckpointError, match=r"several formats \(bit_paper, timm\); give `format="
    ):
        find_format("f", keys)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "vit_jax"),
        ({"position_embedding": "sincos2d"}, "big_vision"),
        ({"pooling": "attention", "class_token": False}, "big_vision"),
        ({"gelu": "exact"}, "timm"),
        ({"gelu": "exact", "layer_norm_epsilon": 1e-12}, "huggingface"),
    ],
)
def test_a_new_model_is_written_in_the_first_format_that_holds_it(fields, name, tmp_path):
    sizes = {"hidden_size": 64, "mlp_dim": 8, "num_heads": 1, "depth": 1, "image_size": 32}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, **sizes, **fields)
    path = keras_vit.save_pretrained(model, tmp_path / "model.npz")
    again = keras_vit.from_pretrained(path, image_size=32)
    assert again.origin["format"] == name
    assert again.config == model.config


def test_every_format_is_in_the_documentation():
    text = (REFERENCE.parents[1] / "docs" / "checkpoints.md").read_text()
    assert {name for name in FORMATS if f"| `{name}` |" not in text} == set()


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_has_an_inverse(name):
    """Each symbol of our shape is once in theirs, and the other way round."""
    format_ = FORMATS[name]
    for row in format_.rows:
        for layout in format_.layouts.values():

            def symbols(shape, layout=layout):
                filled = re.sub(r"\{(\w+)\}", lambda match: layout[match.group(1)], shape)
                parts = re.split(r"[ *]", filled)
                return sorted(part for part in parts if part not in ("1", "") and "@" not in part)

            assert symbols(row.shape) == symbols(row.file_shape or row.shape), row


@pytest.mark.parametrize("source", ["timm", "huggingface", "big_vision", "vit_jax"])
@pytest.mark.parametrize("target", ["timm", "huggingface", "big_vision", "vit_jax"])
def test_every_conversion_is_the_same_model_or_an_error_that_says_why(source, target, tmp_path):
    """All four have this ViT; only the exact GELU keeps some from the official formats."""
    fields = {"hidden_size": 64, "mlp_dim": 16, "num_heads": 1, "depth": 2, "image_size": 32}
    gelu = "tanh" if source in ("big_vision", "vit_jax") else "exact"
    model = keras_vit.create_model("ViT-Ti/16", num_classes=3, gelu=gelu, **fields)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape, scale=0.1) for w in model.get_weights()])
    ending = {"timm": "safetensors", "huggingface": "safetensors"}
    first = tmp_path / "first" / f"model.{ending.get(source, 'npz')}"
    second = tmp_path / "second" / f"model.{ending.get(target, 'npz')}"
    keras_vit.save_pretrained(model, first, format=source)
    loaded = keras_vit.from_pretrained(first)
    if gelu == "exact" and target not in ending:
        with pytest.raises(CheckpointError, match=f"{target} cannot hold `gelu` 'exact'"):
            keras_vit.save_pretrained(loaded, second, format=target)
        return
    keras_vit.save_pretrained(loaded, second, format=target)
    again = keras_vit.from_pretrained(second)
    assert again.config == model.config
    images = rng.uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        again.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-4, atol=1e-5
    )
    if target in ending:
        assert json.loads((second.parent / "config.json").read_text())


def mutated(shapes, facts, rng):
    """A file's table of shapes, and its config.json, with one to three things wrong."""
    shapes, facts = dict(shapes), json.loads(json.dumps(facts))
    keys = sorted(shapes)
    for _ in range(rng.integers(1, 4)):
        key = str(rng.choice(keys))
        shape = list(shapes.get(key, (1,)))
        at = int(rng.integers(max(len(shape), 1)))
        match rng.integers(7):
            case 0:
                shapes.pop(key, None)
            case 1:
                shapes[key] = tuple(shape[:-1])
            case 2:
                shapes[key] = (*shape, int(rng.integers(3)))
            case 3:
                shape[at : at + 1] = [int(rng.choice([0, 1, 2, 7, 64, 10**9]))]
                shapes[key] = tuple(shape)
            case 4:
                shapes[key.replace("0", "99999999").replace("1", "77")] = tuple(shape)
            case 5:
                shapes[key + "x"] = shapes.pop(key, (1,))
            case 6 if facts:
                name = str(rng.choice(sorted(facts)))
                values = [None, -1, 0, 1.5, "x", [], [8, 8], {}, {"num_heads": 0}, True]
                facts[name] = values[rng.integers(len(values))]
    return shapes, facts


@pytest.mark.parametrize("path", reference_files(), ids=lambda path: path.parent.name + path.stem)
def test_mutants_of_names_shapes_and_config_are_understood_or_one_error(path):
    container = open_container(path)
    shapes, facts = container.shapes, container.facts()
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(NUM_MUTANTS):
        mutant, changed = mutated(shapes, facts, rng)
        try:
            match = match_file(path, find_format(path, mutant), mutant, changed)
        except CheckpointError:
            errors += 1
            continue
        assert {match.prefix + entry.theirs for entry in match.entries} <= set(mutant)
    assert errors > NUM_MUTANTS / 2


def test_weights_that_keras_alone_wrote_are_named_for_what_they_are():
    with pytest.raises(CheckpointError, match="what Keras's `save_weights` writes"):
        find_format("a.weights.h5", {"layers/dense/vars/0", "layers/dense/vars/1"})


def test_what_an_unknown_wrapper_put_before_all_names_is_named():
    keys = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"}
    for start in ("tower.", "lit.tower."):
        with pytest.raises(CheckpointError, match=f"without '{start}' before its names .* timm"):
            find_format("a.safetensors", {start + key for key in keys})
