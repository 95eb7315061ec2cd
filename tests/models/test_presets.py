"""Names, configurations and parameter counts of all models."""

import gzip
import json
import math
import pathlib

import pytest

from keras_vit.checkpoints import matching
from keras_vit.checkpoints.formats.bit import BIT
from keras_vit.checkpoints.formats.vit_jax import VIT_JAX
from keras_vit.models.fields import replace_fields
from keras_vit.models.presets import PRESETS, get_preset, list_models
from keras_vit.models.resnet_configs import HybridVisionTransformerConfig
from keras_vit.zoo.loading import create_model
from keras_vit.zoo.saving import describe

MANIFESTS = json.loads(
    gzip.decompress(
        (pathlib.Path(__file__).parents[1] / "reference/official_manifests.json.gz").read_bytes()
    )
)

# Backbone; with 1,000 classes; with 21,843 classes: arXiv:1912.11370's models.
BIT_PARAMETERS = {
    "BiT-R50x1": (23_500_352, 25_549_352, 68_256_659),
    "BiT-R50x2": (93_891_712, None, None),
    "BiT-R50x3": (211_174_080, 217_319_080, 345_399_315),
    "BiT-R101x1": (42_492_480, 44_541_480, 87_248_787),
    "BiT-R101x3": (381_789_888, 387_934_888, 516_015_123),
    "BiT-R152x1": (58_136_128, None, None),
    "BiT-R152x2": (232_238_208, 236_335_208, 321_728_979),
    "BiT-R152x4": (928_340_224, 936_533_224, 1_107_299_923),
    "BiT-R200x3": (562_488_000, None, None),
}


def file_shapes(name, changes, format_):
    """key -> shape of the file that the format's table gives for a named model."""
    config = get_preset(name)
    entries = matching.entries(format_, describe(replace_fields(config, changes)))
    return {entry.theirs: entry.file_shape for entry in entries}


@pytest.mark.parametrize("official", MANIFESTS)
def test_every_official_model_has_its_names_shapes_and_number_of_parameters(official):
    manifest = MANIFESTS[official]
    config = manifest["config"]
    changes = {
        "num_classes": manifest["num_classes"],
        "image_size": manifest["image_size"],
        "representation_size": config["representation_size"],
    }
    shapes = file_shapes(official.split("@")[0], changes, VIT_JAX)
    assert shapes == {key: tuple(shape) for key, shape in manifest["parameters"].items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == manifest["num_parameters"]


@pytest.mark.parametrize("official", [name for name in MANIFESTS if "@" not in name])
def test_every_official_model_has_its_configuration(official):
    theirs = MANIFESTS[official]["config"]
    ours = get_preset(official)
    transformer = theirs["transformer"]
    assert ours.hidden_size == theirs["hidden_size"]
    assert ours.mlp_dim == transformer["mlp_dim"]
    assert ours.num_heads == transformer["num_heads"]
    assert ours.depth == transformer["num_layers"]
    assert ours.dropout == transformer["dropout_rate"]
    assert ours.attention_dropout == transformer["attention_dropout_rate"]
    assert ours.patch_size == tuple(theirs["patches"]["size"])
    assert {"token": "token", "gap": "mean"}[theirs["classifier"]] == ours.pooling
    if "resnet" in theirs:
        assert ours.stage_depths == tuple(theirs["resnet"]["num_layers"])


@pytest.mark.parametrize("name", BIT_PARAMETERS)
def test_bit_models_have_their_number_of_parameters(name):
    for num_classes, expected in zip((0, 1000, 21843), BIT_PARAMETERS[name], strict=True):
        shapes = file_shapes(name, {"num_classes": num_classes}, BIT)
        total = sum(math.prod(shape) for shape in shapes.values())
        assert expected is None or total == expected


@pytest.mark.parametrize(
    "name", ["ViT-Ti/16", "ViT-S/16-gap-norep", "R+ViT-Ti/16", "R26+ViT-S/32", "BiT-R50x1"]
)
def test_a_built_model_has_the_variables_of_its_table(name):
    model = create_model(name, num_classes=7)
    format_ = BIT if name.startswith("BiT") else VIT_JAX
    entries = matching.entries(format_, describe(model.config))
    assert {e.ours: e.shape for e in entries} == {v.path: tuple(v.shape) for v in model.weights}
    assert model.output_shape == (None, 7)


def test_the_papers_names_are_all_there():
    table_1 = {"ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14"}
    hybrids = {"R50+ViT-B/32", "R50+ViT-B/16", "R50+ViT-L/32", "R50+ViT-L/16"}
    resnets = {"R50x1", "R50x2", "R101x1", "R152x1", "R152x2", "R200x3"}
    table_6 = table_1 | hybrids | {f"BiT-{name}" for name in resnets}
    published = {f"BiT-R{n}" for n in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")}
    assert table_6 | published <= set(list_models())


def test_list_models_takes_a_wildcard_and_keeps_a_natural_order():
    expected = ["R50+ViT-B/16", "R50+ViT-B/32", "R50+ViT-L/16", "R50+ViT-L/32"]
    assert list_models("R50*") == expected
    assert list_models("ViT-B/*") == [
        "ViT-B/8", "ViT-B/14", "ViT-B/16", "ViT-B/32", "ViT-B/32-gap-norep", "ViT-B/16-gap-norep",
    ]  # fmt: skip
    assert len(list_models()) == len(PRESETS)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("ViT-B_16", "ViT-B/16"), ("ResNet50x1", "BiT-R50x1"), ("R152x2", "BiT-R152x2")],
)
def test_other_spellings_are_understood(spelling, name):
    assert get_preset(spelling) is PRESETS[name]


def test_hybrids_of_the_paper_cut_their_patches_where_their_names_say():
    for name in list_models("R*"):
        config = get_preset(name)
        assert isinstance(config, HybridVisionTransformerConfig)
        effective = config.stride * config.patch_size[0]
        stated = int(name.split("/")[1])
        assert effective == (32 if name == "R+ViT-Ti/16" else stated)


def test_an_unknown_name_lists_the_close_ones():
    with pytest.raises(ValueError, match=r"Received: 'ViT-B/17'\. Close: ViT-B/"):
        get_preset("ViT-B/17")


def test_an_unknown_field_lists_the_close_ones():
    with pytest.raises(ValueError, match="has no field 'hiden_size'. Close: hidden_size"):
        create_model("ViT-B/16", hiden_size=8)
