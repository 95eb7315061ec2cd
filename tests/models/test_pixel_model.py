"""A model with its preprocessing built in, through every door."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.models.pixel_model import network_of

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 21, 13, 3), dtype=np.uint8)
SMALL = {"image_size": (12, 8), "patch_size": 4, "hidden_size": 16, "num_heads": 2, "depth": 1}
# The network runs in another program, and among other threads, for the two, which may round the
# last bit otherwise; the pixels that it gets are compared bit for bit.
TOLERANCE = 1e-6


@pytest.fixture(name="model")
def model_fixture():
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=2, class_names=["ant", "bee"], include_preprocessing=True, **SMALL
    )
    for variable in model.weights:
        variable.assign(RNG.normal(scale=0.1, size=variable.shape))
    model.network.preprocessing = keras_vit.Preprocessing(
        image_size=(12, 8), resize="short_side", resize_to=(14, 14)
    )
    return keras_vit.include_preprocessing(model.network)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_it_gives_what_the_model_gives_for_preprocessed_images(model, tmp_path):
    prepared = keras_vit.preprocess(PIXELS, model.network)
    expected = model.network.predict(prepared, verbose=0)
    inside = keras.Model(model.input, model.get_layer("preprocessing").output)
    np.testing.assert_array_equal(inside.predict(PIXELS, verbose=0), prepared)
    assert_same(model.predict(PIXELS, verbose=0), expected)
    assert_same(model.predict(PIXELS.astype("float32"), verbose=0), expected)
    assert_same(model(PIXELS), expected)
    assert model.predict(PIXELS[:, :9], verbose=0).shape == (3, 2)

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same(again.predict(PIXELS, verbose=0), expected)
    assert again.class_names == ("ant", "bee")
    for included in (False, True):
        read = keras_vit.from_pretrained(tmp_path / "model.keras", include_preprocessing=included)
        assert read.preprocessing == model.preprocessing
        assert_same(read.predict(PIXELS if included else prepared, verbose=0), expected)
    keras_vit.save_pretrained(model, tmp_path / "model.npz")
    arrays = keras_vit.load_weights(keras_vit.include_preprocessing(read), tmp_path / "model.npz")
    assert_same(arrays.predict(PIXELS, verbose=0), expected)


def test_it_is_trained_with_a_head_of_the_users(model, tmp_path):
    features = model.feature_extractor(blocks=(-1,))
    tokens = features.output["block_0"]
    own = keras.Model(features.input, keras.layers.Dense(2)(tokens[:, 0]))
    own.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(v) for v in model.network.trainable_variables]
    own.fit(PIXELS, np.array([0, 1, 0]), verbose=0)
    moved = [np.any(np.array(v) != b) for v, b in zip(model.network.weights, before, strict=True)]
    assert any(moved)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(PIXELS, np.array([0, 1, 0]), verbose=0).history["loss"][0])
    for built in (own, keras.Sequential([model, keras.layers.Dense(3)])):
        network = network_of(built)
        prepared = keras_vit.preprocess(PIXELS, network)
        assert_same(built.predict(PIXELS, verbose=0), network.predict(prepared, verbose=0))


@pytest.mark.parametrize("scale", ["-1 to 1", "0 to 1"])
def test_scaled_pixels_are_warned_of(model, scale, caplog):
    images = PIXELS / 255.0 if scale == "0 to 1" else PIXELS / 127.5 - 1
    with caplog.at_level("WARNING"):
        model.predict(PIXELS, verbose=0)
        assert "do not scale" not in caplog.text
        for _ in range(2):
            model.predict(images, verbose=0)
    assert caplog.text.count(f"from {scale}: its answers will be wrong; do not scale them") == 1


def test_what_it_refuses(model):
    with pytest.raises(ValueError, match="preprocessing built in; give it the pixels"):
        keras_vit.preprocess(PIXELS, model)
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: str"):
        keras_vit.include_preprocessing("ViT-B/16")
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="must tell what pixels it wants"):
        keras_vit.include_preprocessing(plain)


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_predict_evaluate_and_exports_take_it(model, tmp_path):
    import tensorflow as tf

    for name, pixels in zip(("ant", "bee"), PIXELS, strict=False):
        path = tmp_path / "data" / "test" / name / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(tf.io.encode_png(pixels).numpy())
    data = str(tmp_path / "data")
    assert keras_vit.evaluate(model, data) == keras_vit.evaluate(model.network, data)
    ours, theirs = (list(keras_vit.predict(m, [data])) for m in (model, model.network))
    assert ours == theirs
    expected = model.predict(PIXELS, verbose=0)
    folder = keras_vit.export(model, tmp_path / "serving")
    served = tf.saved_model.load(str(folder)).signatures["images"](images=tf.constant(PIXELS))
    np.testing.assert_array_equal(served["scores"], expected)
    model.export(tmp_path / "keras_own", verbose=False)  # Keras's own
    own = tf.saved_model.load(str(tmp_path / "keras_own"))
    np.testing.assert_array_equal(own.serve(PIXELS.astype("float32")), expected)
