import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluation.classification import cross_entropy, evaluate

# Sums of float32 logits' cross-entropies in float64, in another order.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def upstream(digits_dir):
    return pipeline.resolve("digits/upstream", digits_dir)


@pytest.fixture(scope="module")
def model():
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=5, image_size=8, patch_size=4, hidden_size=16, num_heads=2, depth=1
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    return model


@pytest.mark.parametrize("batch_size", [1, 32, 61, 183, 500])
def test_evaluate_counts_each_image_once_at_any_batch_size(model, upstream, batch_size):
    images, labels = [], []
    batches = pipeline.evaluation_dataset(upstream, "test", model.preprocessing, batch_size=183)
    for image, label, mask in batches.as_numpy_iterator():
        assert mask.all()
        images.append(image)
        labels.append(label)
    images, labels = np.concatenate(images), np.concatenate(labels)
    logits = keras.ops.convert_to_numpy(model(images, training=False)).astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    metrics = evaluate(model, upstream, "test", batch_size)
    assert metrics["count"] == len(labels) == 183
    assert metrics["accuracy"] == np.mean(logits.argmax(-1) == labels)
    expected = -log_probabilities[np.arange(183), labels].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=TOLERANCE)


def test_evaluate_resolves_a_name(model, upstream, digits_dir):
    by_name = evaluate(model, "digits/upstream", "validation", data_dir=digits_dir)
    assert by_name == evaluate(model, upstream, "validation")


def test_cross_entropy_hand_worked():
    logits = np.log(np.array([[1.0, 1.0, 2.0], [8.0, 1.0, 1.0]]))
    np.testing.assert_allclose(
        cross_entropy(logits, np.array([2, 1])), [np.log(2), np.log(10)], rtol=1e-12
    )
    assert cross_entropy(np.array([[1e5, 0.0]]), np.array([1])) == 1e5


def test_evaluate_refuses_other_classes(upstream):
    small = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_heads": 2, "depth": 1}
    other = keras_vit.create_model("ViT-Ti/16", num_classes=7, **small)
    with pytest.raises(ValueError, match="5 classes of 'digits/upstream'. Received: .* 7"):
        evaluate(other, upstream)
    named = keras_vit.create_model("ViT-Ti/16", num_classes=5, class_names="01243", **small)
    with pytest.raises(ValueError, match="class 3 is '4' in the model and '3' in the data set"):
        evaluate(named, upstream)


def test_evaluate_refuses_an_unknown_split(model, upstream):
    with pytest.raises(ValueError, match="`split` must be one of .* did you mean 'test'"):
        evaluate(model, upstream, "tset")
