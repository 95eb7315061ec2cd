import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.preprocess import evaluation_image

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
def marked(model, tmp_path_factory):
    """As `exported`, but bad images are marked, limits are low, and there is attention."""
    return keras_vit.export(
        model,
        tmp_path_factory.mktemp("marked"),
        on_bad_image="mark",
        max_batch_size=64,
        max_pixels=5000,
        attention=True,
    )


@pytest.fixture(scope="session")
def signatures():
    """SavedModel's folder -> its signatures."""
    loaded = {}  # the functions die with it

    def load(folder):
        if folder not in loaded:
            loaded[folder] = tf.saved_model.load(str(folder))
        return loaded[folder].signatures

    return load


@pytest.fixture(scope="session")
def expected_logits():
    """(model, encoded images) -> what `predict` says after evaluation's preprocessing."""

    def logits(model, encoded):
        pixels = [evaluation_image(decode_image(e), model.preprocessing) for e in encoded]
        return model.predict(np.stack(pixels), verbose=0)

    return logits


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
