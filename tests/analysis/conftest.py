"""Models with sharp attention, the official model's results on them, and models of every kind."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_vit

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
CASES = ("deep", "hybrid", "vit_gap", "vit_token", "wide_image")
# Their checkpoints are those of the parity tests.
SHARED = {"hybrid", "vit_gap", "vit_token"}


class AttentionCase:
    """A model of `tests/reference/attention`, and what the official code computes with it."""

    def __init__(self, name):
        self.facts = json.loads((REFERENCE / "attention" / f"{name}.json").read_text())
        folder = "vit_jax" if name in SHARED else "attention"
        config = self.facts["config"]
        self.path = REFERENCE / folder / f"{name}.npz"
        self.model = keras_vit.from_pretrained(
            self.path, image_size=tuple(self.facts["image_size"])
        )
        self.has_filters = "resnet" not in config
        with np.load(REFERENCE / "attention" / f"{name}.ref.npz") as file:
            self.expected = {key: file[key] for key in file.files}
        self.images = self.expected["images"]


@pytest.fixture(scope="session", params=CASES)
def case(request):
    return AttentionCase(request.param)


@pytest.fixture(scope="session")
def deep():
    return AttentionCase("deep")


def small_model(family="vit", dtype=None, **changes):
    """A model of a family with random weights, its head among them, and three images."""
    keras.utils.set_random_seed(1)
    transformer = {"hidden_size": 24, "mlp_dim": 32, "num_heads": 3, "depth": 2}
    options = {
        "vit": {"patch_size": (4, 8), "image_size": (16, 24), **transformer},
        "hybrid": {
            "patch_size": 1,
            "image_size": (32, 48),
            "stage_depths": (1, 1),
            "width_factor": 0.5,
            **transformer,
        },
        "bit": {"image_size": (32, 48), "stage_depths": (1, 1), "width_factor": 0.5},
    }[family]
    classes = {
        "vit": (keras_vit.VisionTransformer, keras_vit.VisionTransformerConfig),
        "hybrid": (keras_vit.HybridVisionTransformer, keras_vit.HybridVisionTransformerConfig),
        "bit": (keras_vit.BiTResNet, keras_vit.BiTResNetConfig),
    }[family]
    model_class, config_class = classes
    model = model_class(config_class(**{"num_classes": 5, **options, **changes}), dtype=dtype)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.path.startswith("head"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    shape = (3, *model.config.image_size, model.config.in_channels)
    return model, rng.uniform(-1, 1, shape).astype("float32")


@pytest.fixture(scope="session")
def make_model():
    return small_model
