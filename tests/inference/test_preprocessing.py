import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.data import pipeline
from keras_vit.data.images.preprocess import evaluation_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (13, 9, 3), dtype=np.uint8)
RULE = keras_vit.Preprocessing(image_size=(8, 6), resize_to=(9, 7))


@pytest.fixture(name="encode")
def encode_fixture():
    return encode


def encode(pixels, format):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.fixture(name="expected")
def expected_fixture():
    return evaluation_image(PIXELS, RULE).numpy()


def test_preprocess_takes_what_people_have(tmp_path, encode, expected):
    png = encode(PIXELS, "PNG")
    (tmp_path / "a.png").write_bytes(png)
    for image in (
        PIXELS,
        PIXELS.astype(np.int64),
        Image.fromarray(PIXELS),
        png,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        tf.constant(PIXELS),
        tf.constant(png),
        keras.ops.convert_to_tensor(PIXELS),
    ):
        ours = keras_vit.preprocess(image, RULE)
        np.testing.assert_array_equal(ours, expected)
        assert isinstance(ours, tf.Tensor) == isinstance(image, tf.Tensor)
    floats = keras_vit.preprocess(PIXELS.astype(np.float32), RULE)
    np.testing.assert_array_equal(floats, expected)


def test_preprocess_of_batches_is_that_of_each(encode, expected):
    png = encode(PIXELS, "PNG")
    for batch in (
        [PIXELS, png, Image.fromarray(PIXELS)],
        np.stack([PIXELS] * 3),
        tf.stack([PIXELS] * 3),
        tf.constant([png] * 3),
    ):
        np.testing.assert_array_equal(keras_vit.preprocess(batch, RULE), [expected] * 3)


def test_preprocess_inside_a_data_set_gives_the_same_bits(encode, expected):
    png = encode(PIXELS, "PNG")
    for dataset in (
        tf.data.Dataset.from_tensors(PIXELS),
        tf.data.Dataset.from_tensors(png),
        tf.data.Dataset.from_tensors(np.stack([PIXELS, PIXELS])),
        tf.data.Dataset.from_tensors([png, png]),
    ):
        (images,) = dataset.map(lambda images: keras_vit.preprocess(images, RULE))
        np.testing.assert_array_equal(images, np.broadcast_to(expected, images.shape))


def test_preprocess_gives_the_pixels_of_evaluation(tmp_path):
    for name in "ab":
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.jpg").write_bytes(encode(PIXELS, "JPEG"))
    info = pipeline.resolve(tmp_path)
    (batch, _, _), *_ = pipeline.evaluation_dataset(info, "test", RULE, batch_size=2)
    images = keras_vit.preprocess(list(info.source.paths("test")), RULE)
    np.testing.assert_array_equal(images, batch)


def test_preprocess_for_a_model_that_was_cut_from_one_of_ours(expected):
    small = {"patch_size": 2, "hidden_size": 16, "num_heads": 2, "depth": 1}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, image_size=(8, 6), **small)
    cut = keras.Model(model.inputs, model.get_layer("pre_logits").output)
    whole = evaluation_image(PIXELS, model.preprocessing)
    np.testing.assert_array_equal(keras_vit.preprocess(PIXELS, model), whole)
    np.testing.assert_array_equal(keras_vit.preprocess(PIXELS, cut), whole)


def test_preprocess_of_a_grey_model_and_a_grey_image():
    rule = keras_vit.Preprocessing(image_size=(8, 6), channels=1)
    assert keras_vit.preprocess(PIXELS, rule).shape == (8, 6, 1)
    assert keras_vit.preprocess(PIXELS[..., 0], rule).shape == (8, 6, 1)


@pytest.mark.parametrize(
    ("image", "error", "match"),
    [
        (PIXELS / 127.5 - 1, ValueError, "do not scale them first"),
        (PIXELS.astype(np.int32) * 9, ValueError, r"Pixels must be in \[0, 255\]"),
        (PIXELS[0, 0], ValueError, "Images must be"),
        ([], ValueError, "empty list"),
        (b"hello", tf.errors.InvalidArgumentError, "starts with 68656c6c6f"),
        (np.array(["a"]), TypeError, "must be a path, bytes, or pixels"),
        ("none.jpg", OSError, "none.jpg"),
    ],
)
def test_preprocess_of_no_pixels_raises(image, error, match):
    with pytest.raises(error, match=match):
        keras_vit.preprocess(image, RULE)
    with pytest.raises(TypeError, match="a model of keras_vit"):
        keras_vit.preprocess(PIXELS, "ViT-B/16")
