"""Trainings for several labels and for values: what is learned, stored, stopped and resumed."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.evaluators import multilabel
from keras_vit.models.task import Task
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import finetune
from keras_vit.training.sweep import sweep
from tests import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 8, 8, 3), np.uint8)
# Which of the three colour channels are bright.
HOT = RNG.random((30, 3)) < 0.5
IMAGES = np.where(HOT[:, None, None, :], IMAGES // 4 + 192, IMAGES // 4)
BRIGHTNESS = IMAGES.mean((1, 2)) * [100.0, 1.0, 0.01] + [1e4, 0.0, -3.0]  # three units


def splits(labels):
    return {
        name: (IMAGES[part], labels[part])
        for name, part in (
            ("train", slice(18)),
            ("validation", slice(18, 24)),
            ("test", slice(24, 30)),
        )
    }


DATA = {"multilabel": splits(HOT.astype(int)), "regression": splits(BRIGHTNESS)}
RECIPE = Recipe(
    steps=30, batch_size=6, report_steps=15, learning_rate=0.01, optimizer="adamw", decay="constant"
)


class Killed(Exception):
    """Stands for the end of the process."""


def train(source, task, workdir, **options):
    options = {"progress": False, "objective": task, "recipe": RECIPE, **options}
    return finetune(source, DATA[task], workdir, **options)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return {task: train(source, task, folder / task) for task in DATA}


def outputs(model):
    return np.asarray(model.predict_on_batch(IMAGES.astype("float32") / 127.5 - 1.0))


def test_several_labels_are_learned_and_thresholds_stored(trained):
    result = trained["multilabel"]
    assert result.metrics["recipe"]["loss"] == "sigmoid"
    assert result.metrics["test"]["mean_average_precision"] > 0.95
    assert result.metrics["test"]["f1_macro"] > 0.9
    expected = multilabel.best_thresholds(outputs(result.model)[18:24], HOT[18:24])
    assert result.model.task.thresholds == pytest.approx(expected)
    for load in (keras_vit.from_pretrained, keras.saving.load_model):
        loaded = load(result.files["model.keras"])
        assert loaded.task == result.model.task
        np.testing.assert_array_equal(outputs(loaded), outputs(result.model))
    assert keras_vit.from_pretrained(result.workdir, num_classes=2).task is None


def test_values_of_any_unit_are_learned_and_predicted_as_they_are(trained):
    result = trained["regression"]
    assert result.metrics["recipe"]["loss"] == "mse"
    assert result.model.task == Task(kind="regression")
    assert result.metrics["test"]["r2"] > 0.8
    errors = outputs(result.model)[24:] - BRIGHTNESS[24:]
    assert result.metrics["test"]["mse"] == pytest.approx(np.mean(errors**2), rel=1e-4)
    rows = (result.workdir / "history.csv").read_text().splitlines()
    assert "validation/mae" in rows[0]
    # The last report was before the head took over mean and deviation: in the same units.
    validation = outputs(result.model)[18:24] - BRIGHTNESS[18:24]
    assert result.metrics["validation"]["mae"] == pytest.approx(
        np.mean(np.abs(validation)), rel=1e-3
    )


@pytest.mark.parametrize("task", list(DATA))
def test_training_that_was_killed_ends_with_the_same_bits(
    source, trained, task, tmp_path, monkeypatch
):
    original = StopAfter.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 20:
            monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
            raise Killed

    monkeypatch.setattr(StopAfter, "on_train_batch_end", end)
    with pytest.raises(Killed):
        train(source, task, tmp_path, checkpoint_steps=7)
    received = train(source, task, tmp_path)
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == trained[task].files[name].read_bytes()
    assert received.model.task == trained[task].model.task


def test_training_without_validation_keeps_the_threshold_of_one_half(source, tmp_path):
    data = {"train": DATA["multilabel"]["train"]}
    result = finetune(
        source, data, tmp_path, recipe=RECIPE, objective="multilabel", steps=2, progress=False
    )
    assert result.model.task == Task(kind="multilabel")
    config = json.loads(json.dumps(result.model.get_config()))
    assert config["task"] == {"kind": "multilabel"}


def test_model_of_one_class_has_no_task_in_its_configuration():
    assert "task" not in tiny.make_model().get_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "multilabel"}, "multi-hot"),
        ({"objective": "multilabel", "loss": "mse"}, "`loss` must be one of .'sigmoid'"),
        ({"objective": "supervised", "loss": "mse"}, "`loss` must be one of .'softmax', 'sigmoid'"),
        (
            {"objective": "regression", "label_smoothing": 0.1},
            "`label_smoothing` is of the objectives",
        ),
        ({"objective": "regression", "augmentation": "bit_160_128_mixup"}, "mixes images"),
    ],
)
def test_combination_that_makes_no_sense_is_refused(source, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        finetune(source, (IMAGES, np.arange(30) % 3), tmp_path, recipe=RECIPE, **changes)


@pytest.mark.parametrize("task", list(DATA))
def test_adapters_learn_the_task_and_the_best_weights_are_kept(source, tmp_path, task):
    key = {"multilabel": "mean_average_precision", "regression": "r2"}[task]
    result = train(source, task, tmp_path, tune="lora:4", monitor=f"validation/{key}", patience=2)
    assert result.metrics["test"][key] > 0.5
    labels = DATA[task]["validation"][1]
    if task == "regression":
        errors = np.abs(outputs(result.model)[18:24] - labels)
        assert result.metrics["validation"]["mae"] == pytest.approx(errors.mean(), rel=1e-3)
    else:
        assert len(result.model.task.thresholds) == 3


def test_sweep_takes_the_rate_of_the_lowest_error(source, tmp_path):
    recipe = dataclasses.replace(RECIPE, objective="regression", steps=6, report_steps=6)
    recipe = dataclasses.replace(recipe, learning_rates=(1e-5, 0.01))
    result = sweep(
        source,
        DATA["regression"],
        tmp_path,
        recipe=recipe,
        metric="validation/mae",
        progress=False,
    )
    errors = {row["learning_rate"]: row["mae"] for row in result.candidates}
    assert result.learning_rate == min(errors, key=errors.get)
    assert len(set(errors.values())) == 2
