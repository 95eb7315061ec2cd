"""What libraries say of pixels, as they write it, and the way back."""

import dataclasses

import pytest

from keras_vit.checkpoints.formats import preprocessing_configs as configs
from keras_vit.models import Preprocessing

SIZE = (224, 224)
# google/vit-base-patch16-224, as transformers writes it.
VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
# The same of a first release.
OLD_VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": 224,
}
BIT = {
    "crop_size": {"height": 448, "width": 448},
    "do_center_crop": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 480},
}
# timm/vit_small_patch16_224.augreg_in1k, and a model that leaves all to timm.
TIMM = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}

RULES = (
    Preprocessing(image_size=SIZE),
    Preprocessing(image_size=SIZE, resize="short_side", resize_to=(256, 256)),
    Preprocessing(image_size=(240, 240), resize_to=(272, 272)),
    Preprocessing(
        image_size=SIZE,
        value_range=(0, 1),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
        antialias=True,
    ),
    Preprocessing(image_size=(16, 24), value_range=(0, 255), interpolation="area"),
)


def read(fields, size=SIZE):
    return Preprocessing(**{"image_size": size, **fields})


@pytest.mark.parametrize("config", [VIT, OLD_VIT])
def test_from_huggingface_vit_is_the_official_range(config):
    found = read(configs.from_huggingface(config))
    assert found.value_range == (-1.0, 1.0)
    assert (found.mean, found.resize, found.interpolation) == (None, "squash", "bilinear")
    assert (found.image_size, found.antialias) == (SIZE, True)


def test_from_huggingface_crop_mean_and_deviation_are_kept():
    found = read(configs.from_huggingface(BIT))
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.value_range, found.interpolation) == ((0.0, 1.0), "bicubic")
    assert (found.image_size, found.resize_to) == ((448, 448), (480, 480))
    assert found.resize == "short_side"


def test_from_huggingface_steps_that_are_left_out_are_left_out():
    fields = configs.from_huggingface({"do_rescale": False, "do_normalize": False, "size": 224})
    assert fields["value_range"] == (0.0, 255.0)
    assert "mean" not in fields
    fields = configs.from_huggingface({**VIT, "do_resize": False})
    assert fields == {"value_range": (-1.0, 1.0)}


def test_from_timm_crop_part_and_defaults_are_timms():
    found = read(configs.from_timm(TIMM))
    assert (found.resize, found.resize_to) == ("short_side", (248, 248))
    assert (found.value_range, found.interpolation) == ((-1.0, 1.0), "bicubic")
    found = read(configs.from_timm({}))
    assert found.resize_to == (256, 256)
    assert (found.mean, found.std) == (
        configs.IMAGENET_MEAN,
        configs.IMAGENET_STD,
    )


@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
@pytest.mark.parametrize("library", ["huggingface", "timm", "keras_hub"])
def test_what_is_written_is_read_as_the_same_rule(library, rule):
    write, read_back = (getattr(configs, f"{way}_{library}") for way in ("to", "from"))
    written = write(dataclasses.asdict(rule), 3)
    if library == "keras_hub" and (rule.resize_to or rule.interpolation == "area"):
        assert written is None
        return
    found = read(read_back(written), rule.image_size)
    # Smoothing is always theirs; KerasHub alone has a choice.
    assert found.antialias == (rule.antialias if library == "keras_hub" else True)
    assert found.image_size == rule.image_size
    assert (found.resize, found.interpolation) == (rule.resize, rule.interpolation)
    assert (found.resize_to or found.image_size) == (rule.resize_to or rule.image_size)
    assert found.value_range == pytest.approx(rule.value_range, abs=1e-12)
    for name in ("mean", "std"):
        assert getattr(found, name) == pytest.approx(getattr(rule, name))


@pytest.mark.parametrize("target", range(224, 300))
def test_to_timm_crop_part_gives_the_very_size(target):
    rule = Preprocessing(image_size=SIZE, resize="short_side", resize_to=(target, target))
    assert configs.from_timm(configs.to_timm(dataclasses.asdict(rule), 3))["resize_to"][0] == target


@pytest.mark.parametrize(
    ("function", "config", "message"),
    [
        (
            configs.from_huggingface,
            {"resample": 1},
            "`resample` 1 is not one of 2, 3, 4",
        ),
        (configs.from_huggingface, {"resample": [2]}, "is not one of"),
        (
            configs.from_huggingface,
            {"rescale_factor": "1/255"},
            "must be a positive number",
        ),
        (
            configs.from_huggingface,
            {"image_std": [0.5, 0.0, 0.5]},
            "do not go together",
        ),
        (configs.from_huggingface, {"image_mean": [0.5, 0.5]}, "do not go together"),
        (configs.from_huggingface, {"image_mean": "grey"}, "must be numbers"),
        (
            configs.from_huggingface,
            {"size": {"longest_edge": 3}},
            "a height and a width",
        ),
        (configs.from_huggingface, {"size": -3}, "a height and a width"),
        (
            configs.from_timm,
            {"interpolation": "lanczos"},
            "'lanczos' is not one of bilinear",
        ),
        (configs.from_timm, {"crop_pct": 3}, r"in \(0, 1\]"),
        (configs.from_timm, {"crop_mode": "border"}, "'border' is not one of"),
        (configs.from_timm, {"input_size": 224}, "channels, height, width"),
        (configs.from_timm, {"mean": [float("nan")] * 3}, "must be numbers"),
    ],
)
def test_values_that_are_no_preprocessing_of_ours_are_refused(function, config, message):
    with pytest.raises(ValueError, match=message):
        function(config)
