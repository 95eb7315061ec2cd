"""Errors and the share of explained variance are scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from keras_vit.evaluators import Regression
from keras_vit.evaluators.regression import measure
from keras_vit.models.task import Task
from tests import tiny

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("num_values", [1, 3])
def test_measures_are_those_of_scikit_learn(num_values):
    values = RNG.normal(50, 10, (40, num_values)).astype(np.float32)
    predicted = values + RNG.normal(size=values.shape)
    assert measure(predicted, values) == pytest.approx(
        {
            "mse": metrics.mean_squared_error(values, predicted),
            "mae": metrics.mean_absolute_error(values, predicted),
            "r2": metrics.r2_score(values, predicted),
        }
    )


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_value_that_does_not_vary_is_met_or_not(error):
    values = np.full((4, 1), 3.0)
    assert measure(values + error, values)["r2"] == metrics.r2_score(values, values + error)


def test_evaluator_takes_outputs_as_values_of_the_task():
    model = tiny.make_model(num_classes=2)
    images = RNG.integers(0, 256, (5, 8, 8, 3), np.uint8)
    model.task = Task(kind="regression", mean=(10.0, -4.0), scale=(2.0, 0.5))
    outputs = np.asarray(model.predict_on_batch(images / np.float32(127.5) - 1))
    values = outputs * [2.0, 0.5] + [10.0, -4.0]
    found = Regression("test", dataset={"test": (images, values)}, batch_size=2).run(model)
    assert found == pytest.approx({"mse": 0.0, "mae": 0.0, "r2": 1.0}, abs=1e-5)
