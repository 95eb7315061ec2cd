"""Numbers from files are held against what any model has, before they cost memory or sense."""

import dataclasses
import math

import pytest

import keras_vit
from keras_vit.errors import CheckpointError
from keras_vit.models import Preprocessing
from keras_vit.zoo import file_ranges
from tests.tiny import make_model


@pytest.fixture(scope="module")
def config():
    return make_model().config


@pytest.mark.parametrize(
    "fields",
    [
        {"resize_to": (8, 400)},
        {"mean": (0.0,) * 7, "std": (1.0,) * 7},
        {"mean": (2.0**31, 0.0, 0.0), "std": (1.0,) * 3},
        {"mean": (0.0,) * 3, "std": (1.0, 1.0, 1e-30)},
        {"value_range": (0.0, 1e300)},
        {"value_range": (0.0, math.inf)},
        {"image_size": (8, 1 << 20)},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_preprocessing_out_of_range_is_refused(config, fields):
    with pytest.raises(CheckpointError, match="has an invalid model configuration"):
        file_ranges.check("x", config, Preprocessing(**{"image_size": (8, 8), **fields}))


@pytest.mark.parametrize("epsilon", [-5.0, 1e308, math.nan, 0.5])
def test_epsilons_out_of_range_are_refused(config, epsilon):
    with pytest.raises(CheckpointError, match="`layer_norm_epsilon` must be a number from 0.0"):
        file_ranges.check("x", dataclasses.replace(config, layer_norm_epsilon=epsilon), None)


def test_what_is_published_passes(config):
    for fields in ({}, {"resize_to": (16, 16)}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}):
        file_ranges.check("x", config, Preprocessing(**{"image_size": (8, 8), **fields}))


def test_a_keras_file_with_such_numbers_is_refused(tmp_path):
    model = make_model(layer_norm_epsilon=1e6)
    model.save(tmp_path / "x.keras")
    with pytest.raises(CheckpointError, match="`layer_norm_epsilon`"):
        keras_vit.from_pretrained(tmp_path / "x.keras")


def test_a_bad_image_size_is_about_the_argument(tmp_path):
    make_model().save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match="image_size") as error:
        keras_vit.from_pretrained(tmp_path / "x.keras", image_size=9)
    assert type(error.value) is ValueError


def test_save_pretrained_takes_a_folder_and_no_empty_path(tmp_path):
    path = keras_vit.save_pretrained(make_model(), tmp_path / "folder", format="timm")
    assert path == tmp_path / "folder" / "model.safetensors"
    assert (tmp_path / "folder" / "config.json").is_file()
    keras_vit.from_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="single file, whose name must end with .npz"):
        keras_vit.save_pretrained(make_model(), tmp_path / "other", format="vit_jax")
    with pytest.raises(ValueError, match="must not be empty"):
        keras_vit.save_pretrained(make_model(), "")
