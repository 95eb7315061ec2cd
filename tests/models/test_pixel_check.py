import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.models.pixel_check import pixel_problem

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(name="model")
def model_fixture():
    small = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_heads": 2, "depth": 1}
    return keras_vit.create_model("ViT-Ti/16", num_classes=2, **small)


@pytest.mark.parametrize("images", [PIXELS, PIXELS.astype("int32"), PIXELS.astype("float32")])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_pixels_that_are_not_scaled_are_warned_of_once(model, images, method, caplog):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    arguments = () if method == "predict" else (np.zeros(3, int),)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            getattr(model, method)(images, *arguments, verbose=0)
    assert caplog.text.count("pass the images through `keras_vit.preprocess(images, model)`") == 1


def test_pixels_of_the_model_pass_without_a_warning(model, caplog):
    with caplog.at_level("WARNING"):
        model.predict(PIXELS / 127.5 - 1, verbose=0)
        model.predict(RNG.normal(size=PIXELS.shape), verbose=0)
    assert "keras_vit.preprocess" not in caplog.text


def test_range_follows_mean_and_deviation():
    rule = keras_vit.Preprocessing(
        image_size=(8, 8), value_range=(0, 1), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )
    assert pixel_problem(np.full((1, 2, 2, 3), -4.9), rule) is None
    assert "from 40 to 40" in pixel_problem(np.full((1, 2, 2, 3), 40.0), rule)


@pytest.mark.tensorflow_only
def test_a_data_set_is_read_once_for_the_check(model, caplog):
    import tensorflow as tf

    begun = []

    def batches():
        begun.append(1)
        yield PIXELS[:2].astype("float32") / 127.5 - 1

    spec = tf.TensorSpec((None, 8, 8, 3), tf.float32)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    for _ in range(3):
        model.predict(dataset, verbose=0)
    assert len(begun) == 1 + 3
    with caplog.at_level("WARNING"):
        model.predict(dataset.map(lambda images: 127.5 * images + 127.5), verbose=0)
    assert caplog.text.count("keras_vit.preprocess") == 1


@pytest.mark.parametrize("kind", ["functional", "around", "sequential"])
def test_models_with_own_heads_warn_as_well(model, kind, caplog):
    dense = keras.layers.Dense(2)
    if kind == "functional":
        own = keras.Model(model.input, dense(model.get_layer("pre_logits").output))
    elif kind == "around":
        inputs = keras.Input((8, 8, 3))
        own = keras.Model(inputs, dense(model(inputs)))
    else:
        own = keras.Sequential([model, dense])
    scaled = keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1), model])
    with caplog.at_level("WARNING"):
        scaled.predict(PIXELS, verbose=0)  # does it itself
        own.predict(PIXELS / 127.5 - 1, verbose=0)
        assert "wants pixels" not in caplog.text
        for _ in range(2):
            own.predict(PIXELS.astype("float32"), verbose=0)
    assert caplog.text.count(f"{own.name} wants pixels that are scaled") == 1
