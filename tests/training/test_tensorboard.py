"""TensorBoard reads the rows of the history, also of a run that was resumed."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.training.callbacks import StopAfter
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import pretrain
from tests import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
DATA = {"train": (IMAGES, np.arange(12) % 3), "validation": (IMAGES[:4], np.arange(4) % 3)}
RECIPE = Recipe(steps=5, batch_size=4, report_steps=2, learning_rate=0.1, **tiny.RECIPE)


def events_of(folder):
    """(step, name) -> value, of all files of events."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    return found


def test_events_are_the_rows_of_the_history(tmp_path, monkeypatch):
    original = StopAfter.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 3:
            monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
            raise InterruptedError

    def train():
        return pretrain(DATA, tmp_path, recipe=RECIPE, tensorboard=True, progress=False)

    monkeypatch.setattr(StopAfter, "on_train_batch_end", end)
    with pytest.raises(InterruptedError):
        train()
    result = train()
    with open(result.files["history.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        (int(row["step"]), name): float(value)
        for row in rows
        for name, value in row.items()
        if name != "step"
    }
    assert events_of(tmp_path / "tensorboard") == pytest.approx(expected, rel=1e-6)
    assert {step for step, _ in expected} == {2, 4, 5}
