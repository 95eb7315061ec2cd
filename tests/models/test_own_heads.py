"""What pixels a model of one's own wants, where it was cut from one of ours."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.models import BiTResNet, Preprocessing, VisionTransformer
from keras_vit.models.classifier import preprocessing_of
from tests.models.test_models import BIT, VIT

RULE = Preprocessing(image_size=(16, 16), value_range=(0, 1), mean=(0.5, 0.4, 0.3), std=(1, 2, 3))


@pytest.fixture
def model():
    return VisionTransformer(VIT, preprocessing=RULE)


def with_head(model, classes=2):
    features = model.get_layer("pre_logits").output
    return keras.Model(model.input, keras.layers.Dense(classes, name="own")(features))


def saved(model, tmp_path):
    model.save(tmp_path / "own.keras")
    return keras.models.load_model(tmp_path / "own.keras")


def test_a_cut_model_knows_its_pixels_also_once_it_was_saved(model, tmp_path):
    cut = with_head(model)
    assert preprocessing_of(cut) == RULE
    assert preprocessing_of(saved(cut, tmp_path)) == RULE
    assert preprocessing_of(model.feature_extractor()) == RULE
    assert preprocessing_of(with_head(BiTResNet(BIT))) == BiTResNet(BIT).preprocessing


def test_what_is_changed_later_is_known_too(model):
    cut = with_head(model)
    model.preprocessing = other = Preprocessing(image_size=(16, 16), resize="short_side")
    assert model.preprocessing == preprocessing_of(cut) == other


def test_a_model_around_ours_knows_them_unless_something_stands_before(model, tmp_path):
    inputs = keras.Input((16, 16, 3))
    around = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    assert preprocessing_of(around) == RULE
    assert preprocessing_of(saved(around, tmp_path)) == RULE
    assert preprocessing_of(keras.Sequential([model, keras.layers.Dense(2)])) == RULE
    scaled = keras.Model(inputs, model(keras.layers.Rescaling(1 / 255)(inputs)))
    with pytest.raises(ValueError, match="must tell what pixels it wants.*give `preprocessing="):
        preprocessing_of(scaled)
    assert preprocessing_of(scaled, RULE) == RULE


def test_pixels_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"size \(16, 16\). Received: \(8, 8\)"):
        preprocessing_of(model, Preprocessing(image_size=(8, 8)))


def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("test/ant", "test/bee"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / "1.png")
    return tmp_path / "data"


def test_evaluate_and_predict_take_an_own_head(model, tmp_path):
    folder, cut = image_folder(tmp_path), with_head(model)
    metrics = keras_vit.evaluate(cut, str(folder))
    assert metrics["count"] == 2
    answers = list(keras_vit.predict(cut, [folder / "test/ant/1.png"], top_k=2))
    assert {p.class_name for p in answers[0].predictions} == {"0", "1"}
    plain = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="give `preprocessing=keras_vit.Preprocessing"):
        keras_vit.evaluate(plain, str(folder))
    with pytest.raises(ValueError, match="give `preprocessing=keras_vit.Preprocessing"):
        keras_vit.predict(plain, [folder])
    assert keras_vit.evaluate(plain, str(folder), preprocessing=RULE)["count"] == 2
    assert len(list(keras_vit.predict(plain, [folder], preprocessing=RULE))) == 2


def test_a_model_of_one_channel_sees_grey(tmp_path):
    from keras_vit.data.images.preprocess import evaluation_image

    folder = image_folder(tmp_path)
    model = keras_vit.create_model(
        "ViT-Ti/16", in_channels=1, num_classes=2, depth=1, image_size=16
    )
    assert model.preprocessing.channels == 1
    assert keras_vit.evaluate(model, str(folder))["count"] == 2
    assert len(list(keras_vit.predict(model, [folder]))) == 2
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    expected = pixels @ [0.299, 0.587, 0.114] / 127.5 - 1
    grey = evaluation_image(pixels, model.preprocessing).numpy()
    np.testing.assert_allclose(grey, expected[..., np.newaxis], atol=1e-6)
    with pytest.raises(ValueError, match="1 or 3 channels. Received: a model of 4"):
        evaluation_image(pixels, model.preprocessing.with_channels(4))


def test_the_rule_of_colours_becomes_one_for_other_channels():
    grey = RULE.with_channels(1)
    np.testing.assert_allclose((grey.mean, grey.std), [[0.4], [2.0]])
    assert RULE.with_channels(4).mean == (0.5, 0.4, 0.3, 0.5)
    assert RULE.with_channels(3) == RULE
    with pytest.raises(ValueError, match="`channels` must be an integer of at least 1"):
        Preprocessing(image_size=(8, 8), channels=0)


def test_a_model_upon_the_head_of_a_loaded_one_is_saved_and_cloned(tmp_path):
    model = keras_vit.from_pretrained("fashion_mnist/ViT-mini_4")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
    upon = keras.Model(model.input, keras.layers.Dense(3, name="own")(model.output))
    expected = upon.predict_on_batch(images)
    np.testing.assert_array_equal(saved(upon, tmp_path).predict_on_batch(images), expected)
    clone = keras.models.clone_model(model)
    assert isinstance(clone.get_layer("head").kernel_initializer, keras.initializers.Zeros)
