"""Data of the user's own, measured with a model that knows its classes."""

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.evaluators.classification import Classification
from keras_vit.evaluators.report import make_report
from tests.tiny import make_model

NAMES = ("cat", "dog", "bird")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0, 1, 0])  # no bird


@pytest.fixture(name="model", scope="module")
def model_fixture():
    return make_model(class_names=NAMES)


@pytest.fixture(name="right", scope="module")
def right_fixture(model):
    """The share of `IMAGES` whose class has the highest logit."""
    logits = model.predict(keras_vit.preprocess(IMAGES, model), verbose=0)
    return float(np.mean(logits.argmax(-1) == LABELS))


@pytest.mark.parametrize(
    "dataset",
    [
        (IMAGES, LABELS),
        (IMAGES, np.array(NAMES)[LABELS]),
        {"test": (IMAGES, np.eye(3, dtype="float32")[LABELS])},
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4),
    ],
    ids=["arrays", "names", "shares", "examples", "batches"],
)
def test_own_data_have_the_classes_of_the_model_also_where_one_does_not_occur(
    model, right, dataset
):
    metrics = keras_vit.evaluate(model, dataset)
    assert (metrics["accuracy"], metrics["count"]) == (right, 6)


def test_own_data_may_have_any_name_of_a_split(model, right):
    assert keras_vit.evaluate(model, (IMAGES, LABELS), "holdout")["accuracy"] == right
    assert make_report(model, (IMAGES, LABELS), "holdout")["accuracy"] == right
    assert Classification(dataset=(IMAGES, LABELS)).run(model)["accuracy"] == right


def test_names_of_own_data_are_matched_with_the_names_that_are_given(model):
    names = np.array(NAMES)
    swapped = ("dog", "cat", "bird")
    ours = keras_vit.evaluate(model, (IMAGES, names[LABELS]), class_names=swapped)
    assert ours == keras_vit.evaluate(model, (IMAGES, np.array([1, 0, 2])[LABELS]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2, 3, 0, 0]), r"in \[0, 3\). Received: 3"),
        (np.array(["cow"] * 6), "one of the 3 class names. Received: 'cow'"),
        (np.eye(2, dtype="float32")[LABELS], "each of 3 classes. Received: 2 columns in 'test'"),
    ],
)
def test_labels_that_are_no_classes_of_the_model_are_refused(model, labels, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.evaluate(model, (IMAGES, labels))


def test_a_stream_of_shares_of_other_classes_is_refused(model):
    stream = tf.data.Dataset.from_tensor_slices((IMAGES, np.eye(2, dtype="float32")[LABELS]))
    with pytest.raises(ValueError, match="each of 3 classes. Received: 2 columns in 'test'"):
        keras_vit.evaluate(model, stream)
