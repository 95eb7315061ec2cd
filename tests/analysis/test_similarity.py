"""Linear CKA by its definition, and between models of different families."""

import keras
import numpy as np
import pytest

from keras_vit import analysis

TOLERANCE = 1e-5


def test_cka_is_its_definition_and_forgets_rotations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 6))
    a, b = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    assert analysis.linear_cka(x, y) == pytest.approx(expected, rel=1e-9)
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert analysis.linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert np.isnan(analysis.linear_cka(x, np.ones((9, 2))))
    with pytest.raises(ValueError, match=r"same two or more examples. Received: shapes \(9, 4\)"):
        analysis.linear_cka(x, y[:8])


def test_features_are_the_means_of_what_leaves_the_blocks(make_model):
    model, images = make_model("vit")
    names = [f"encoderblock_{i}" for i in range(2)]
    layers = keras.Model(model.input, [model.get_layer(name).output for name in names])
    outputs = [keras.ops.convert_to_numpy(x) for x in layers(images)]
    means = analysis.block_features(model, images, batch_size=2)
    tokens = analysis.block_features(model, images, features="token")
    assert list(means) == list(tokens) == names
    for name, output in zip(names, outputs, strict=True):
        np.testing.assert_allclose(means[name], output[:, 1:].mean(axis=1), atol=TOLERANCE)
        np.testing.assert_allclose(tokens[name], output[:, 0], atol=TOLERANCE)


def test_a_transformer_is_compared_with_a_resnet(make_model):
    model, images = make_model("hybrid")
    other, other_images = make_model("bit")
    found = analysis.representation_similarity(model, images, other, other_images)
    assert found.rows == ("encoderblock_0", "encoderblock_1")
    assert found.columns == ("block1_unit1", "block2_unit1")
    assert found.values.shape == (2, 2)
    assert np.all((found.values > 0) & (found.values <= 1))
    expected = analysis.linear_cka(
        analysis.block_features(model, images)["encoderblock_1"],
        analysis.block_features(other, other_images)["block1_unit1"],
    )
    assert found.values[1, 0] == pytest.approx(expected, rel=1e-5)


def test_a_model_is_most_like_itself(make_model):
    model, images = make_model("vit")
    found = analysis.representation_similarity(model, images)
    np.testing.assert_allclose(np.diag(found.values), 1, rtol=1e-6)
    np.testing.assert_allclose(found.values, found.values.T, rtol=1e-6)


def test_arguments_that_make_no_sense_are_refused(make_model):
    model, images = make_model("vit", class_token=False, pooling="mean")
    with pytest.raises(ValueError, match="'token' needs a class token"):
        analysis.block_features(model, images, features="token")
    with pytest.raises(ValueError, match="`features` must be one of"):
        analysis.block_features(model, images, features="max")
    with pytest.raises(ValueError, match="two or more images. Received: 1 images"):
        analysis.representation_similarity(model, images[:1])
    with pytest.raises(ValueError, match="Received: 2 and 3 images"):
        analysis.representation_similarity(model, images, model, images[:2])
