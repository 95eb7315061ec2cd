"""Nearest neighbours against what DINO's own evaluation computes."""

import copy

import numpy as np
import pytest

from keras_vit.data import pipeline
from keras_vit.evaluators import features, knn
from keras_vit.evaluators.base import Evaluator
from tests.conftest import REFERENCE
from tests.tiny import make_model

# Sums of up to 200 float32 votes, in another order.
VOTES_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def case():
    with np.load(REFERENCE / "evaluation" / "probe" / "knn_dino.npz") as file:
        return {key: file[key] for key in file.files}


def _votes(case, k):
    arrays = (case[name] for name in ("train_features", "train_labels", "test_features"))
    return knn.knn_votes(*arrays, int(case["num_classes"]), k)


def test_votes_predictions_and_accuracies_are_those_of_dino(case, assert_close):
    several = tuple(case["k"].tolist())
    for i, (k, votes) in enumerate(zip(several, _votes(case, several), strict=True)):
        assert_close(votes, case[f"k{k}/votes"], VOTES_TOLERANCE)
        assert votes.argmax(axis=-1).tolist() == case[f"k{k}/predictions"].tolist()
        top1, top5 = knn.knn_accuracies(votes, case["test_labels"], k)
        assert 100 * top1 == pytest.approx(case["top1"][i])
        if k > 5:  # among five and fewer voters DINO leaves the order of no votes to the machine
            assert 100 * top5 == pytest.approx(case["top5"][i])


def test_blocks_change_nothing(case, monkeypatch):
    expected = _votes(case, 20)
    monkeypatch.setattr(knn, "_BLOCK", 7 * len(case["train_labels"]))
    np.testing.assert_allclose(_votes(case, 20), expected, rtol=VOTES_TOLERANCE)


def test_two_neighbours_by_hand():
    train = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    votes = knn.knn_votes(train, [0, 1, 1], np.array([[3.0, 0.0]]), 2, 2, temperature=1.0)
    np.testing.assert_allclose(votes, [[np.e, np.exp(np.sqrt(0.5))]], rtol=1e-6)
    assert knn.knn_accuracies(votes, [1], 2) == (0.0, 1.0)
    assert knn.knn_accuracies(votes, [1], 1) == (0.0, 0.0)


def test_evaluator_scores_the_votes_on_the_features(digits_dir):
    digits = pipeline.resolve("digits/all", digits_dir)
    model = make_model(num_classes=10)
    metrics = knn.KNN(digits, k=(5, 20)).run(model)
    reader = features.FeatureReader(digits)
    (features_, labels), train = reader.read(model, "test"), reader.read(model, "train")
    votes = knn.knn_votes(*train, features_, 10, 20)
    assert metrics["k20"] == np.mean(votes.argmax(axis=-1) == labels)
    assert metrics["k20/top5"] > metrics["k20"] > 0.3
    assert set(metrics) == {"k5", "k5/top5", "k20", "k20/top5"}


def test_more_neighbours_than_images_are_an_error(digits_dir):
    digits = pipeline.resolve("digits/all", digits_dir)
    with pytest.raises(ValueError, match="at most the number of training images, 1074. Received"):
        knn.KNN(digits, k=2000).run(make_model(num_classes=10))
    with pytest.raises(ValueError, match="`k` must be between 1 and .* 3. Received: 4"):
        knn.knn_votes(np.eye(3), [0, 1, 2], np.eye(3), 3, 4)


def test_evaluator_without_a_data_set_takes_that_of_the_training(digits_dir):
    digits = pipeline.resolve("digits/all", digits_dir)
    evaluator = knn.KNN(None, k=5)
    assert (evaluator.name, evaluator.dataset) == ("knn", None)
    assert isinstance(evaluator, Evaluator)
    given = copy.copy(evaluator)
    given.dataset = digits
    assert given.run(make_model(num_classes=10))["k5"] > 0.3
    assert evaluator.dataset is None
