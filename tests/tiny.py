"""The smallest ViT that has all parts of one, for tests that train."""

import keras
import numpy as np

import keras_vit

# Fields of a recipe; but for `model`, of a model's configuration too.
ARCHITECTURE = {"patch_size": 4, "hidden_size": 16, "mlp_dim": 32, "num_heads": 2, "depth": 1}
RECIPE = {"model": "ViT-Ti/16", "image_size": 8, **ARCHITECTURE}


def make_model(**config):
    """A model of three classes; its head does not start at zero, and with it all other gradients.

    Args:
        **config: of `keras_vit.create_model`, in the place of what is said here.
    """
    keras.utils.set_random_seed(3)
    config = {"num_classes": 3, "image_size": 8, **ARCHITECTURE, **config}
    model = keras_vit.create_model("ViT-Ti/16", **config)
    kernel = next(v for v in model.weights if v.path == "head/kernel")
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape) * 0.1)
    return model
