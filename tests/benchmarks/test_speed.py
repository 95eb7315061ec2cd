"""Measurements of a small model, and the search for a batch size on made-up ones."""

import sys

import keras
import pytest

from keras_vit.benchmarks import speed

TINY = "ViT-Ti/32"


def test_a_measurement_has_all_numbers_and_they_agree_with_each_other():
    backend = keras.backend.backend()
    row = speed.measure(
        speed.Work(model=TINY, backend=backend, batch_size=2, image_size=64, seconds=0.2)
    )
    assert "error" not in row, row
    assert (row["model"], row["batch_size"], row["backend"]) == (TINY, 2, backend)
    assert 0 < row["latency_ms_p50"] <= row["latency_ms_p90"] <= row["latency_ms_p99"]
    assert row["images_per_second"] <= 2 / (row["latency_ms_p50"] / 1e3) * 2
    assert 0 < row["share_of_peak"] < 1
    assert row["memory_mb"] >= 0


def test_a_process_that_fails_gives_a_row_with_its_error():
    row = speed.measure(speed.Work(model="ViT-Nothing/16"))
    assert "there is no model of this name" in row["error"]
    assert "images_per_second" not in row


@pytest.mark.tensorflow_only
def test_training_in_this_process_counts_three_forward_passes(monkeypatch):
    monkeypatch.setattr(speed, "_peak_tflops", lambda *_: 1.0)
    rows = [
        speed.run(speed.Work(model=TINY, task=task, image_size=32, seconds=0.0))
        for task in speed.TASKS
    ]
    inference, training = (row["tflops"] / row["images_per_second"] for row in rows)
    assert training == pytest.approx(3 * inference)


def made_up(speeds, device="gpu", memory_mb=1.0):
    """A measurement of throughputs by batch size; a batch that is not there does not fit."""

    def measure(work):
        if work.batch_size not in speeds:
            return {"batch_size": work.batch_size, "error": "out of memory"}
        return {
            "batch_size": work.batch_size,
            "images_per_second": speeds[work.batch_size],
            "device": device,
            "memory_mb": memory_mb,
        }

    return measure


@pytest.mark.parametrize(
    ("measure", "batch_sizes"),
    [
        (made_up({1: 10.0, 2: 18.0, 4: 18.1, 8: 99.0}), [1, 2, 4]),
        (made_up({1: 10.0, 2: 18.0}), [1, 2, 4]),
        (made_up({1: 10.0, 2: 18.0}, "cpu", float(sys.maxsize)), [1]),
    ],
    ids=["no longer faster", "does not fit", "would not fit"],
)
def test_the_search_doubles_the_batch_while_it_pays_and_fits(measure, batch_sizes):
    rows = list(speed.search(speed.Work(model=TINY), measure))
    assert [row["batch_size"] for row in rows] == batch_sizes
