"""Early stopping and the best weights: as Keras's, and exact when a run is resumed."""

import csv

import keras
import numpy as np
import pytest

from keras_vit.evaluators import Every
from keras_vit.training.best import Best, mode_of
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.recipe import Recipe
from keras_vit.training.resume.exact_resume import ExactResume
from keras_vit.training.run import finetune

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (22, 8, 8, 3), np.uint8)
LABELS = np.arange(22) % 3
DATA = {"train": (IMAGES[:16], LABELS[:16]), "validation": (IMAGES[16:], LABELS[16:])}
# A rate at which the loss of the validation split goes up and down.
RECIPE = Recipe(
    steps=12, batch_size=8, report_steps=2, learning_rate=2.0, decay="constant", ema=0.5
)
STOPPING = {"monitor": "validation/loss", "patience": 2}


class Killed(Exception):
    """Stands for the end of the process."""


def train(source, workdir, **options):
    return finetune(source, DATA, workdir, recipe=RECIPE, progress=False, **options)


def losses_of(result):
    with open(result.files["history.csv"], newline="") as file:
        return [float(row["validation/loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run without early stopping, and the losses of its reports."""
    result = train(source, tmp_path_factory.mktemp("whole"))
    return result, losses_of(result)


@pytest.fixture(scope="module")
def stopped(source, tmp_path_factory):
    return train(source, tmp_path_factory.mktemp("stopped"), **STOPPING)


def expected_stop(losses, patience):
    """(number of reports, number of the best) by Keras's rule."""
    callback = keras.callbacks.EarlyStopping("loss", mode="min", patience=patience)
    callback.set_model(keras.Sequential([keras.layers.Dense(1)]))
    callback.model.stop_training = False
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"loss": loss})
        if callback.model.stop_training:
            break
    return epoch + 1, callback.best_epoch


def test_training_ends_as_keras_would_and_writes_the_best_weights(whole, stopped, source, tmp_path):
    _, losses = whole
    number, best = expected_stop(losses, STOPPING["patience"])
    assert number < len(losses), "the rate must be one at which the loss goes up"
    assert losses_of(stopped) == losses[:number]
    assert stopped.metrics["validation"]["loss"] == losses[best]
    assert stopped.metrics["written_step"] == 2 * (best + 1)
    # The weights are those of a training that ends with the best report.
    until_best = train(source, tmp_path, steps=2 * (best + 1))
    for received, expected in zip(
        stopped.model.get_weights(), until_best.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("step", [3, 5])
def test_killed_run_ends_with_the_same_bits(source, stopped, tmp_path, monkeypatch, step):
    original = StopAfter.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == step:
            monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
            raise Killed

    monkeypatch.setattr(StopAfter, "on_train_batch_end", end)
    with pytest.raises(Killed):
        train(source, tmp_path, checkpoint_steps=1, **STOPPING)
    received = train(source, tmp_path, **STOPPING)
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == stopped.files[name].read_bytes()


def test_run_that_was_killed_after_it_stopped_does_not_go_on(
    source, stopped, tmp_path, monkeypatch
):
    def end(self, logs=None):
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(ExactResume, "on_train_end", end)
    with pytest.raises(Killed):
        train(source, tmp_path, **STOPPING)
    received = train(source, tmp_path, **STOPPING)
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == stopped.files[name].read_bytes()


def test_best_weights_are_written_without_stopping(source, whole, tmp_path):
    _, losses = whole
    result = train(source, tmp_path, monitor="validation/loss")
    assert losses_of(result) == losses
    assert result.metrics["validation"]["loss"] == min(losses)


def test_last_weights_are_written_where_the_best_are_not_wanted(source, whole, tmp_path):
    _, losses = whole
    result = train(source, tmp_path, restore_best_weights=False, **STOPPING)
    number, _ = expected_stop(losses, 2)
    assert result.metrics["validation"]["loss"] == losses[number - 1]


@pytest.mark.tensorflow_only
def test_two_replicas_stop_as_one_device(source, stopped, tmp_path):
    result = train(source, tmp_path, strategy="mirrored", **STOPPING)
    assert result.metrics["written_step"] == stopped.metrics["written_step"]
    np.testing.assert_allclose(losses_of(result), losses_of(stopped), rtol=1e-3)


def test_mode_follows_from_the_key():
    assert [mode_of(key) for key in ("test/mae", "a/ece", "validation/f1_macro")] == [
        *("min", "min", "max")
    ]


def test_value_that_is_not_finite_is_never_the_best():
    callback = Best("loss", restore_best_weights=False)
    callback.set_model(keras.Sequential([keras.layers.Dense(1)]))
    callback.on_epoch_end(0, {"loss": float("nan")})
    callback.on_epoch_end(1, {"loss": 2.0})
    callback.on_epoch_end(2, {"loss": float("nan")})
    assert (callback.best, callback.best_epoch, callback.wait) == (2.0, 1, 1)


class Sum:
    name = "sum"

    def run(self, model):
        return {"head": float(np.abs(model.get_layer("head").get_weights()[0]).sum())}


def test_evaluator_that_does_not_run_with_each_report_is_waited_for(source, tmp_path):
    every = Every(steps=4, evaluator=Sum())
    result = train(source, tmp_path, evaluators=[every], monitor="sum/head", steps=8)
    assert result.metrics["written_step"] in (4, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patience": 2}, "`patience` needs a `monitor`"),
        ({"monitor": "loss", "restore_best_weights": False}, "no `patience`"),
        ({"monitor": "loss", "mode": "up"}, "`mode` must be one of"),
        ({"monitor": "loss", "patience": -1}, "`patience` must be at least 0"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(steps=2, **fields)


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("knn/accuracy", "one of the evaluators of the run: validation"),
        ("validation/acuracy", "`monitor` must be one of .*validation/accuracy"),
    ],
)
def test_unknown_key_is_refused_with_those_there_are(source, tmp_path, monitor, message):
    with pytest.raises(ValueError, match=message):
        train(source, tmp_path, monitor=monitor)
