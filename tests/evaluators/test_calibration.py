"""Calibration error by hand, temperatures that are known, and the temperature in the model."""

import numpy as np
import pytest

import keras_vit
from keras_vit.data import pipeline
from keras_vit.evaluators import Calibration
from keras_vit.evaluators.calibration import (
    best_temperature,
    calibrate,
    expected_calibration_error,
    softmax,
)
from keras_vit.models.task import Task
from tests import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 8, 8, 3), np.uint8)


def test_calibration_error_of_a_case_by_hand():
    # Three bins of 15 are used: (0.46, 0.53], (0.86, 0.93], (0.93, 1].
    highest = np.array([0.5, 0.5, 0.9, 0.9, 1.0])
    probabilities = np.stack([highest, 1 - highest], 1)
    labels = np.array([0, 1, 0, 1, 0])
    # |0.5 - 0.5|, |0.5 - 0.9|, |1 - 1| by their 2, 2 and 1 images.
    expected = (2 * 0.0 + 2 * 0.4 + 1 * 0.0) / 5
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_calibration_error_of_honest_probabilities_is_small():
    probabilities = softmax(RNG.normal(size=(20_000, 4)) * 2)
    labels = (RNG.random((20_000, 1)) > probabilities.cumsum(-1)).sum(-1)
    assert expected_calibration_error(probabilities, labels) < 0.02


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_that_labels_were_drawn_with_is_found(temperature):
    logits = RNG.normal(size=(20_000, 4)) * 4
    probabilities = softmax(logits, temperature)
    labels = (RNG.random((20_000, 1)) > probabilities.cumsum(-1)).sum(-1)
    assert best_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_temperature_is_kept_with_the_model_and_divides_its_logits(tmp_path):
    model = tiny.make_model()
    kernel = model.get_layer("head").kernel
    kernel.assign(kernel * 100.0)  # too sure of everything
    data = {"validation": (IMAGES, RNG.integers(0, 3, 30))}
    numbers = calibrate(model, data, batch_size=7)
    assert numbers["temperature"] > 1.5
    assert numbers["ece"] < numbers["ece_before"]
    assert numbers["loss"] < numbers["loss_before"]
    assert model.task == Task(temperature=numbers["temperature"])
    found = Calibration("validation", dataset=data).run(model)
    assert found == pytest.approx({"ece": numbers["ece"], "loss": numbers["loss"]})
    model.save(tmp_path / "model.keras")
    loaded = keras_vit.from_pretrained(tmp_path / "model.keras")
    assert loaded.task == model.task
    again = calibrate(loaded, data)
    assert again["temperature"] == pytest.approx(numbers["temperature"], rel=1e-4)
    assert again["ece_before"] == pytest.approx(numbers["ece"], abs=1e-6)


def test_model_of_another_task_is_refused():
    model = tiny.make_model()
    model.task = Task(kind="multilabel")
    with pytest.raises(ValueError, match="model of one class an image"):
        calibrate(model, {"validation": (IMAGES, np.arange(30) % 3)})
    model.task = None
    info = pipeline.resolve({"validation": (IMAGES, np.eye(3)[np.arange(30) % 3])})
    with pytest.raises(ValueError, match="one class for each image"):
        calibrate(model, info)
