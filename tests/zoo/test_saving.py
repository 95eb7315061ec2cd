"""Folders that are ready for a hub: arrays, configuration, model card."""

import json
import pathlib

import pytest

import keras_vit
from keras_vit.zoo.card import model_card

NAMED = pathlib.Path(__file__).parents[1] / "reference" / "torch" / "timm_named"


def test_a_folder_has_the_arrays_the_configuration_and_a_card(tmp_path):
    model = keras_vit.from_pretrained(NAMED / "test_vit")
    path = keras_vit.save_pretrained(model, tmp_path / "mine", format="timm", card=True)
    assert path == tmp_path / "mine" / "model.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert keras_vit.from_pretrained(tmp_path / "mine").config == model.config
    card = (tmp_path / "mine" / "README.md").read_text()
    header = dict(line.split(": ") for line in card.split("---")[1].strip().splitlines())
    assert json.loads(header["library_name"]) == "timm"
    assert json.loads(header["license"]) == "unknown"
    for words in ("keras_vit.from_pretrained", "timm.create_model", "16 x 24", "| classes | 5 |"):
        assert words in card


def test_a_card_says_what_it_is_told():
    model = keras_vit.from_pretrained(NAMED / "test_vit", num_classes=0)
    card = model_card(model, "huggingface", "a\nb", licence="mit", metrics={"top-1": 0.81})
    assert '\nlicense: "mit"\n' in card
    assert "| top-1 | 0.81 |" in card
    assert "# a\\nb" in card
    assert "transformers.AutoModel" in card
    assert "image-feature-extraction" in card


def test_a_format_that_is_one_file_has_no_folder(tmp_path):
    model = keras_vit.create_model("ViT-Ti/16", image_size=16, depth=1)
    with pytest.raises(ValueError, match="single file"):
        keras_vit.save_pretrained(model, tmp_path, format="vit_jax")
