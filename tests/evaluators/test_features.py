"""Features of a split, computed, kept and gone on with."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluators import features
from keras_vit.models.preprocessing import Preprocessing
from tests.tiny import make_model

# Two ways to the same float32 products.
TOLERANCE = 1e-5


@pytest.fixture
def digits(digits_dir):
    return pipeline.resolve("digits/downstream", digits_dir)


def _reader(dataset, **options):
    return features.FeatureReader(dataset, features.FeatureOptions(**options))


def test_features_are_what_the_head_reads(digits, assert_close):
    model = make_model(num_classes=5, representation_size=6)
    values, labels = _reader(digits, batch_size=50).read(model, "test")
    assert values.shape == (181, 6)
    assert values.dtype == np.float32
    assert labels.tolist() == digits.source.labels("test").tolist()
    images = np.concatenate(
        [
            images[mask > 0]
            for images, _, mask in pipeline.evaluation_dataset(
                digits, "test", model.preprocessing, batch_size=64
            ).as_numpy_iterator()
        ]
    )
    head = model.get_layer("head")
    logits = keras.ops.convert_to_numpy(head(values))
    assert_close(logits, model.predict(images, verbose=0), TOLERANCE)


def test_representations_of_a_vision_transformer(assert_close):
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=3, image_size=8, patch_size=4, hidden_size=16, mlp_dim=32,
        num_heads=2, depth=5,
    )  # fmt: skip
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")

    def compute(name):
        return keras.ops.convert_to_numpy(features.feature_model(model, name)(images))

    norm = model.get_layer("encoder_norm")
    blocks = [model.get_layer(f"encoderblock_{i}").output for i in range(1, 5)]
    tokens = [
        keras.ops.convert_to_numpy(t)
        for t in keras.Model(model.input, list(map(norm, blocks)))(images)
    ]
    class_token, patch_mean = tokens[-1][:, 0], tokens[-1][:, 1:].mean(axis=1)
    assert_close(compute("class_token"), class_token, TOLERANCE)
    assert_close(compute("pre_logits"), class_token, TOLERANCE)
    assert_close(compute("patch_mean"), patch_mean, TOLERANCE)
    both = np.concatenate([class_token, patch_mean], axis=-1)
    assert_close(compute("class_token_and_patch_mean"), both, TOLERANCE)
    last_4 = np.concatenate([t[:, 0] for t in tokens], axis=-1)
    assert_close(compute("class_token_of_last_4"), last_4, TOLERANCE)


def test_big_vision_pixels_are_whole_numbers_of_a_squashed_and_cropped_image(digits):
    rule, is_cut = features.PREPROCESSINGS["big_vision"](Preprocessing(image_size=(224, 224)))
    assert is_cut
    assert rule == Preprocessing(image_size=(224, 224), resize_to=(256, 256))
    seen = []

    class Recorder:
        output_shape = (None, 1)

        def predict_on_batch(self, images):
            seen.append(np.array(images))
            return np.zeros((len(images), 1))

    model = make_model(num_classes=5)
    reader = _reader(digits, preprocessing="big_vision")
    reader._features_of = (model, Recorder())
    reader.read(model, "test")
    levels = (np.concatenate(seen) + 1) * 127.5
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    exact = features.PREPROCESSINGS["big_vision"](model.preprocessing)[0]
    batches = pipeline.evaluation_dataset(digits, "test", exact, batch_size=64)
    before = (np.concatenate([images for images, _, _ in batches.as_numpy_iterator()]) + 1) * 127.5
    lost = (before - levels)[: len(digits.source.labels("test"))]
    assert lost.max() < 1
    assert lost.min() > -2e-3


def test_kept_features_are_read_and_not_computed_again(digits, tmp_path, monkeypatch):
    model = make_model(num_classes=5)
    first, labels = _reader(digits, cache_dir=tmp_path).read(model, "test")

    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(features.FeatureReader, "_compute", compute)
    again, same_labels = _reader(digits, cache_dir=tmp_path).read(model, "test")
    assert np.array_equal(first, again)
    assert labels.tolist() == same_labels.tolist()
    kernel = model.get_layer("embedding").kernel
    kernel.assign(kernel + 1e-3)
    for change in ({}, {"dtype": "float16"}, {"preprocessing": "dino"}):
        with pytest.raises(AssertionError, match="computed again"):
            _reader(digits, cache_dir=tmp_path, **change).read(model, "test")


def test_stopped_computation_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    model = make_model(num_classes=5)
    monkeypatch.setattr(features, "_SAVE_EVERY", 2)
    options = {"cache_dir": tmp_path, "batch_size": 20}
    complete = _reader(digits, batch_size=20).read(model, "test")[0]
    calls = []

    def stop_at(number):
        submodel = features.feature_model(model)
        whole = submodel.predict_on_batch

        def predict(images):
            calls.append(len(images))
            if len(calls) == number:
                raise KeyboardInterrupt
            return whole(images)

        submodel.predict_on_batch = predict
        reader = _reader(digits, **options)
        reader._features_of = (model, submodel)
        return reader

    with pytest.raises(KeyboardInterrupt):
        stop_at(6).read(model, "test")
    calls.clear()
    values, _ = stop_at(None).read(model, "test")
    assert len(calls) == 6  # 4 of 10 batches were kept
    assert np.array_equal(values, complete)


def test_float16_keeps_half_the_bytes_and_refuses_what_it_cannot_hold(digits, assert_close):
    model = make_model(num_classes=5)
    values, _ = _reader(digits).read(model, "test")
    half, _ = _reader(digits, dtype="float16").read(model, "test")
    assert half.dtype == np.float16
    assert_close(half.astype(np.float32), values, 1e-3)  # 11 bits
    norm = model.get_layer("encoder_norm")
    norm.gamma.assign(norm.gamma * 1e6)
    with pytest.raises(ValueError, match="features must be finite in float16"):
        _reader(digits, dtype="float16").read(model, "test")


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(ValueError, match="`representation` must be one of pre_logits, output"):
        features.FeatureOptions(representation="logits")


def test_representation_that_a_model_lacks_is_an_error():
    no_token = make_model(class_token=False, pooling="mean")
    with pytest.raises(ValueError, match="needs a model with a class token"):
        features.feature_model(no_token, "class_token")
    with pytest.raises(ValueError, match="at least 4 encoder blocks. Received: 1"):
        features.feature_model(make_model(), "class_token_of_last_4")
    resnet = keras_vit.create_model("BiT-R50x1", image_size=32, num_classes=2)
    with pytest.raises(ValueError, match="a layer 'encoder_norm'"):
        features.feature_model(resnet, "patch_mean")
