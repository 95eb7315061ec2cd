"""Counts by hand, of the official tables, and of models that were built."""

import json

import pytest

import keras_vit
from keras_vit.checkpoints.catalog.lookup import get_checkpoint, list_checkpoints
from keras_vit.models.cost import (
    count_multiply_adds,
    count_parameters,
    pretraining_exaflops,
)
from keras_vit.models.fields import replace_fields
from keras_vit.models.presets import get_preset
from tests.conftest import REFERENCE

# Official models_test.py of vision_transformer, at 224 px with 1,000 classes.
PARAMETERS = {
    "ViT-Ti/16": 5_717_416,
    "ViT-S/16": 22_050_664,
    "ViT-S/32": 22_878_952,
    "ViT-B/8": 86_576_872,
    "ViT-B/16": 86_567_656,
    "ViT-B/32": 88_224_232,
    "ViT-L/16": 304_326_632,
    "ViT-L/32": 306_535_400,
    "ViT-H/14": 632_045_800,
    "ViT-B/16-gap-norep": 86_566_120,
    "R+ViT-Ti/16": 6_337_704,
    "R26+ViT-S/32": 36_431_912,
    "R50+ViT-B/16": 98_659_112,
    "R50+ViT-L/32": 328_994_856,
    "BiT-R50x1": 25_549_352,
    "BiT-R101x3": 387_934_888,
    "BiT-R152x4": 936_533_224,
}
# Billions of multiply-adds at 224 px, as published.
MULTIPLY_ADDS = {
    # arXiv:2012.12877 (DeiT), Table 5 and its repository.
    "ViT-Ti/16": 1.3,
    "ViT-S/16": 4.6,
    "ViT-B/16": 17.6,
    # arXiv:1512.03385, Table 1: 3.8 with the stride in the first convolution, 4.1 in the second.
    "BiT-R50x1": 4.1,
    "BiT-R101x1": 7.8,
}
# arXiv:2010.11929v2, Table 6, exaFLOPs of 7 epochs: what they cost relative to B/16.
EXAFLOPS = {
    "ViT-B/32": 55,
    "ViT-B/16": 224,
    "ViT-L/32": 196,
    "ViT-L/16": 783,
    "ViT-H/14": 4262 / 2,
    "BiT-R50x1": 50,
    "BiT-R50x2": 199,
    "BiT-R101x1": 96,
    "BiT-R152x1": 141,
    "BiT-R152x2": 563,
    "BiT-R200x3": 3306 / 2,
    "R50+ViT-B/32": 106,
    "R50+ViT-B/16": 274,
    "R50+ViT-L/32": 246,
    "R50+ViT-L/16": 859,
}
# Table 6's names -> ours, where they differ.
TABLE6_PRESETS = {
    **{name: f"BiT-{name}" for name in ("R50x1", "R50x2", "R101x1", "R152x1", "R152x2", "R200x3")},
    **{f"R50+{name}": f"R50+ViT-{name}" for name in ("B/32", "B/16", "L/32", "L/16")},
}
# The paper does not say what it counts beside the products; its figures are rounded.
EXAFLOPS_TOLERANCE = 0.07


@pytest.mark.parametrize("name", PARAMETERS)
def test_count_parameters_of_a_named_model_is_the_official_number(name):
    assert count_parameters(get_preset(name)) == PARAMETERS[name]


def test_table_6_in_the_conventions_of_the_independent_count():
    """All kernel taps with 1,000 classes; then the taps inside the image and the JFT head."""
    rows = json.loads((REFERENCE / "evaluation" / "cost" / "table6.json").read_text())["rows"]
    assert len(rows) == 18
    for row in rows:
        config = get_preset(TABLE6_PRESETS.get(row["model"], row["model"]))
        multiply_adds = count_multiply_adds(config)
        assert multiply_adds == row["multiply_adds"], row["model"]
        exaflops = pretraining_exaflops(multiply_adds, 303e6, row["epochs"])
        assert exaflops == pytest.approx(row["exaflops"], abs=0.005)
        head = {"num_classes": 18_291}
        if hasattr(config, "hidden_size"):
            head["representation_size"] = config.hidden_size
        multiply_adds = count_multiply_adds(replace_fields(config, head), inside_image=True)
        exaflops = pretraining_exaflops(multiply_adds, 303e6, row["epochs"])
        expected = row["exaflops_inside_image_jft_head"]
        assert exaflops == pytest.approx(expected, abs=0.01), row["model"]
        assert multiply_adds == row["multiply_adds_inside_image_jft_head"], row["model"]


def test_taps_inside_the_image_by_hand():
    fields = {"stage_depths": (1,), "width_factor": 0.5, "image_size": (8, 8), "num_classes": 1}
    config = replace_fields(get_preset("BiT-R50x1"), fields)
    # Root, 7 x 7 with 3 pixels around: rows -3..3, -1..5, 1..7, 3..9 are 4 + 6 + 7 + 5 inside.
    root = 22 * 22 * 3 * 32
    # 3 x 3 on 2 x 2 pixels: two of three taps a side are inside.
    unit = 2 * 2 * (32 * 32 + 32 * 128 + 32 * 128) + 4 * 4 * 32 * 32
    assert count_multiply_adds(config, inside_image=True) == root + unit + 128


def test_count_parameters_of_catalogue_rows_are_theirs():
    counted = 0
    for name in list_checkpoints():
        row = get_checkpoint(name)
        if row.num_params is None or name.startswith("gsam"):
            continue
        config = get_preset(row.architecture)
        fields = {"num_classes": row.num_classes, "image_size": (row.image_size, row.image_size)}
        if row.representation_layer:
            fields["representation_size"] = config.hidden_size
        assert count_parameters(replace_fields(config, fields)) == row.num_params, name
        counted += 1
    assert counted > 40


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("ViT-Ti/16", {"pooling": "attention", "class_token": False, "representation_size": 5}),
        ("ViT-Ti/16", {"position_embedding": "sincos2d", "class_token": False, "pooling": "mean"}),
        ("ViT-Ti/16", {"num_classes": 0, "in_channels": 1, "image_size": (32, 48)}),
        ("R+ViT-Ti/16", {"image_size": 64}),
        ("R26+ViT-S/32", {"image_size": (64, 96), "width_factor": 0.5}),
        ("BiT-R50x1", {"width_factor": 0.5, "num_classes": 3, "in_channels": 4}),
    ],
)
def test_count_parameters_is_that_of_the_built_model(preset, fields):
    sizes = {} if preset.startswith("BiT") else {"hidden_size": 24, "mlp_dim": 40, "depth": 2}
    model = keras_vit.create_model(preset, **{**sizes, **fields})
    assert count_parameters(model.config) == model.count_params()


def test_count_multiply_adds_of_a_tiny_model_is_that_by_hand():
    sizes = {"hidden_size": 4, "mlp_dim": 6, "num_heads": 2, "depth": 2, "patch_size": 2}
    config = get_preset("ViT-Ti/16")
    config = replace_fields(config, {**sizes, "image_size": (4, 6), "num_classes": 3})
    patches = 6 * (2 * 2 * 3) * 4
    # 7 tokens: query, key, value, output; weights times values and the weights; two layers.
    block = 7 * 4 * (4 * 4) + 2 * (7 * 7 * 4) + 7 * 2 * (4 * 6)
    assert count_multiply_adds(config) == patches + 2 * block + 4 * 3
    fields = {"pooling": "attention", "representation_size": 5}
    pooling = (1 + 7 + 7 + 1) * 4 * 4 + 2 * (7 * 4) + 2 * (4 * 6)
    expected = patches + 2 * block + pooling + 4 * 5 + 5 * 3
    assert count_multiply_adds(replace_fields(config, fields)) == expected


def test_count_multiply_adds_of_a_tiny_resnet_is_that_by_hand():
    config = get_preset("BiT-R50x1")
    fields = {"stage_depths": (1, 2), "width_factor": 0.5, "image_size": (16, 20)}
    config = replace_fields(config, {**fields, "num_classes": 3})
    root = (8 * 10) * 7 * 7 * 3 * 32
    first = (4 * 5) * (32 * 32 + 9 * 32 * 32 + 32 * 128 + 32 * 128)
    second = (4 * 5) * 128 * 64 + (2 * 3) * (9 * 64 * 64 + 64 * 256 + 128 * 256)
    third = (2 * 3) * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    assert count_multiply_adds(config) == root + first + second + third + 256 * 3


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_count_multiply_adds_of_a_named_model_is_the_published_number(name):
    billions = count_multiply_adds(get_preset(name)) / 1e9
    assert round(billions, 1) == pytest.approx(MULTIPLY_ADDS[name], abs=0.051)


def test_count_multiply_adds_grow_as_in_the_paper():
    base = count_multiply_adds(get_preset("ViT-B/16"))
    for name, exaflops in EXAFLOPS.items():
        ratio = count_multiply_adds(get_preset(name)) / base
        assert ratio == pytest.approx(exaflops / EXAFLOPS["ViT-B/16"], rel=EXAFLOPS_TOLERANCE), name
