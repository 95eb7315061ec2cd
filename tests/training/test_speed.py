"""How fast a training was, in its history and its events; and loggers that are Keras callbacks."""

import csv
import types

import keras
import numpy as np
import pytest

from keras_vit.models.cost import count_multiply_adds
from keras_vit.training import speed
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import pretrain
from keras_vit.training.tuning import set_tune
from tests import tiny
from tests.training.test_tensorboard import DATA, events_of

RECIPE = Recipe(steps=5, batch_size=4, report_steps=2, learning_rate=0.1, **tiny.RECIPE)


def test_images_and_operations_a_second_are_those_of_the_clock(monkeypatch):
    clock = iter((10.0, 14.0, 20.0))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    waiting = types.SimpleNamespace(share=0.25)
    callback = speed.Speed(8, waiting, operations=100, peak=1000)
    callback.on_epoch_begin(0)
    for step in range(3):
        callback.on_train_batch_end(step)
    logs = {}
    callback.on_epoch_end(0, logs)  # two steps of 8 images in 4 seconds; 400 of 1000 a second
    assert logs == {"images_per_second": 4.0, "flop_utilisation": 0.4, "waiting_share": 0.25}
    callback.on_epoch_begin(1)
    callback.on_train_batch_end(0)
    logs = {}
    callback.on_epoch_end(1, logs)
    assert logs == {"waiting_share": 0.25}


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name, teraflops):
    assert speed.peak_of(name) == teraflops * 1e12


def test_what_is_not_known_is_none():
    assert speed.peak_of("GeForce GTX 680") is speed.device_peak("float32") is None
    model = tiny.make_model()
    assert speed.training_operations(model) == 6 * count_multiply_adds(model.config)
    set_tune(model, "head")
    assert speed.training_operations(model) is None
    assert speed.training_operations(keras.Sequential([keras.Input((1,))])) is None


class MetricsLogger(keras.callbacks.Callback):
    """Takes and reads what `wandb.integration.keras.WandbMetricsLogger` takes and reads."""

    def __init__(self, log_freq="epoch", initial_global_step=0):
        super().__init__()
        self.global_step, self.logged = initial_global_step, []

    def on_train_batch_end(self, batch, logs=None):
        self.global_step += 1

    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        self.logged.append({f"epoch/{k}": v for k, v in logs.items()})
        self.logged[-1] |= {"epoch/epoch": epoch, "epoch/learning_rate": float(np.array(rate))}


def test_speed_is_in_the_history_in_events_and_in_what_a_logger_sees(tmp_path):
    logger = MetricsLogger()
    result = pretrain(
        *(DATA, tmp_path),
        recipe=RECIPE,
        progress=False,
        measure_input_wait=True,
        tensorboard=True,
        callbacks=[logger],
    )
    with open(result.files["history.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["images_per_second"] != "" for row in rows] == [True, True, False]
    assert all(0 <= float(row["waiting_share"]) <= 1 for row in rows)
    assert "flop_utilisation" not in rows[0]  # of a CPU
    events = events_of(tmp_path / "tensorboard")
    assert events[2, "images_per_second"] == pytest.approx(float(rows[0]["images_per_second"]))
    assert logger.global_step == 5
    for epoch, (seen, row) in enumerate(zip(logger.logged, rows, strict=True)):
        assert seen.pop("epoch/epoch") == epoch
        assert seen.pop("epoch/learning_rate") >= 0
        for name, value in seen.items():
            assert float(row[name.removeprefix("epoch/")]) == pytest.approx(float(value)), name
