"""The description of what pixels a model wants."""

import json
import zipfile

import keras
import pytest

import keras_vit
from keras_vit.models import Preprocessing


def test_the_default_is_the_official_evaluation():
    preprocessing = Preprocessing(image_size=[384, 384])
    assert preprocessing.image_size == (384, 384)
    assert preprocessing.value_range == (-1.0, 1.0)
    assert (preprocessing.resize, preprocessing.resize_to) == ("squash", None)


def test_another_size_keeps_the_proportion_of_the_crop():
    preprocessing = Preprocessing(image_size=(224, 224), resize="short_side", resize_to=(256, 256))
    larger = preprocessing.with_image_size((448, 224))
    assert (larger.image_size, larger.resize_to) == ((448, 224), (512, 256))
    assert larger.resize == "short_side"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "crop"}, "`resize` must be one of"),
        ({"interpolation": "lanczos"}, "`interpolation` must be one of"),
        ({"resize_to": (200, 300)}, "at least `image_size`"),
        ({"value_range": (1, 1)}, "must rise"),
        ({"mean": (0.5, 0.5, 0.5)}, "`mean` and `std` must have one number for each channel"),
        ({"mean": (0.5, 0.5), "std": (0.5,)}, "must have one number for each channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "`std` positive"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "must be finite"),
        ({"antialias": 1}, "`antialias` must be a boolean"),
    ],
)
def test_impossible_descriptions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(image_size=(224, 224), **arguments)


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match=r"must be \(height, width\) in pixels"):
        Preprocessing(image_size=(0, 3))


def test_mean_and_deviation_travel_with_the_model(tmp_path):
    pixels = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "value_range": (0, 1)}
    preprocessing = Preprocessing(image_size=(16, 16), antialias=True, **pixels)
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.with_image_size((32, 32)).std == preprocessing.std
    model = keras_vit.create_model("ViT-Ti/16", image_size=16, depth=1, num_classes=2)
    model.preprocessing = preprocessing
    model.save(tmp_path / "model.keras")
    for load in (keras_vit.from_pretrained, keras.saving.load_model):
        assert load(tmp_path / "model.keras").preprocessing == preprocessing


def test_files_of_before_mean_and_deviation_load(tmp_path):
    model = keras_vit.create_model("ViT-Ti/16", image_size=16, depth=1, num_classes=2)
    model.save(tmp_path / "now.keras")
    with (
        zipfile.ZipFile(tmp_path / "now.keras") as now,
        zipfile.ZipFile(tmp_path / "before.keras", "w") as before,
    ):
        for member in now.namelist():
            data = now.read(member)
            if member == "config.json":
                config = json.loads(data)
                for name in ("mean", "std", "antialias"):
                    del config["config"]["preprocessing"][name]
                data = json.dumps(config)
            before.writestr(member, data)
    for load in (keras_vit.from_pretrained, keras.saving.load_model):
        assert load(tmp_path / "before.keras").preprocessing == model.preprocessing
