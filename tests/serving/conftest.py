import numpy as np
import pytest
import tensorflow as tf

import keras_vit

CLASS_NAMES = ("cat", "dog", "hören", "4")


def _make_model(name, **overrides):
    """A small model whose head is not zero, so that its logits differ."""
    model = keras_vit.create_model(
        name, num_classes=4, image_size=32, class_names=CLASS_NAMES, **overrides
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, kernel.shape))
    return model


@pytest.fixture(scope="session")
def make_model():
    return _make_model


@pytest.fixture(scope="session")
def model():
    return _make_model("ViT-Ti/16", depth=1)


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    return keras_vit.export(model, tmp_path_factory.mktemp("export"), top_k=3)


@pytest.fixture(scope="session")
def images():
    """uint8 images of several sizes."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 60), (32, 32), (9, 7))
    ]


@pytest.fixture(scope="session")
def pngs(images):
    return [tf.io.encode_png(image).numpy() for image in images]
