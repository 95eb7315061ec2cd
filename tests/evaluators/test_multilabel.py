"""Average precision and F1 are scikit-learn's; thresholds are the best that there are."""

import keras
import numpy as np
import pytest
from sklearn import metrics

from keras_vit.data import pipeline
from keras_vit.evaluators import MultiLabel, multilabel
from keras_vit.evaluators.classification import evaluate
from keras_vit.models.task import Task
from keras_vit.training.losses import SigmoidCrossentropy
from tests import tiny

RNG = np.random.default_rng(0)
LABELS = (RNG.random((200, 20)) < 0.2).astype(np.float32)
# Rounded, so that many scores are the same.
LOGITS = np.round(RNG.normal(size=(200, 20)) + LABELS, 1)
ALMOST = 1e-12  # float64, other orders of sums


def test_measures_are_those_of_scikit_learn():
    thresholds = RNG.uniform(0.2, 0.8, 20)
    given = multilabel.probabilities(LOGITS) >= thresholds
    measured = multilabel.measure(LOGITS, LABELS, thresholds)
    assert measured.pop("loss") == pytest.approx(float(SigmoidCrossentropy()(LABELS, LOGITS)), 1e-5)
    assert measured == pytest.approx(
        {
            "mean_average_precision": metrics.average_precision_score(LABELS, LOGITS),
            "f1_micro": metrics.f1_score(LABELS, given, average="micro"),
            "f1_macro": metrics.f1_score(LABELS, given, average="macro"),
        },
        abs=ALMOST,
    )


def test_a_single_label_is_measured_as_one():
    measured = multilabel.measure(LOGITS[:, :1], LABELS[:, :1], [0.5])
    labels, scores = LABELS[:, 0], LOGITS[:, 0]
    expected = metrics.f1_score(labels, multilabel.probabilities(scores) >= 0.5)
    assert measured["f1_micro"] == measured["f1_macro"] == pytest.approx(expected, abs=ALMOST)
    expected = metrics.average_precision_score(labels, scores)
    assert measured["mean_average_precision"] == pytest.approx(expected, abs=ALMOST)


def test_label_that_no_image_has_is_left_out_of_the_mean():
    labels = np.concatenate([LABELS, np.zeros((200, 1))], 1)
    logits = np.concatenate([LOGITS, LOGITS[:, :1]], 1)
    measured = multilabel.measure(logits, labels, [0.5] * 21)
    expected = multilabel.measure(LOGITS, LABELS, [0.5] * 20)
    assert measured["mean_average_precision"] == expected["mean_average_precision"]
    with pytest.raises(ValueError, match="no image of the split has a label"):
        multilabel.measure(logits, 0 * labels, [0.5] * 21)


def test_thresholds_have_the_highest_f1_of_all():
    thresholds = multilabel.best_thresholds(LOGITS, LABELS)
    probabilities = multilabel.probabilities(LOGITS)
    for k, threshold in enumerate(thresholds):
        found = metrics.f1_score(LABELS[:, k], probabilities[:, k] >= threshold)
        highest = max(
            metrics.f1_score(LABELS[:, k], probabilities[:, k] >= value)
            for value in np.unique(probabilities[:, k])
        )
        assert found == highest


def test_evaluate_follows_the_task_of_the_model():
    model = tiny.make_model(num_classes=4)
    images = RNG.integers(0, 256, (10, 8, 8, 3), np.uint8)
    labels = (RNG.random((10, 4)) < 0.5).astype(np.int64)
    model.task = Task(kind="multilabel", thresholds=(0.1, 0.4, 0.5, 0.6))
    found = evaluate(model, {"test": (images, labels)}, batch_size=4)
    logits = keras.ops.convert_to_numpy(model(images / 127.5 - 1.0))
    assert found["count"] == 10
    expected = metrics.average_precision_score(labels, logits)
    assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    evaluator = MultiLabel("test", dataset={"test": (images, labels)}, batch_size=3)
    assert evaluator.run(model)["f1_micro"] == pytest.approx(found["f1_micro"])
    model.task = None
    info = pipeline.resolve({"test": (images, labels)}, task="multilabel")
    with pytest.raises(ValueError, match="one class an image"):
        evaluate(model, info)
