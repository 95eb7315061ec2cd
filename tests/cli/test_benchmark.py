"""`keras-vit benchmark` over made-up measurements."""

import csv
import json

import pytest

from keras_vit.benchmarks import speed


@pytest.fixture
def measured(monkeypatch):
    """The works that were asked for; batches of more than 4 do not fit."""
    works = []

    def measure(work):
        works.append(work)
        row = {"task": work.task, "dtype": work.dtype, "batch_size": work.batch_size}
        if work.batch_size > 4:
            return {**row, "error": "out of memory"}
        numbers = ("images_per_second", "latency_ms_p50", "latency_ms_p99", "cpu_seconds")
        more = ("memory_mb", "tflops", "share_of_peak")
        return {**row, **dict.fromkeys((*numbers, *more), 0.5)}

    monkeypatch.setattr(speed, "measure", measure)
    return works


def test_benchmark_measures_each_combination_and_writes_all_numbers(
    keras_vit_command, measured, tmp_path
):
    path = tmp_path / "speed.csv"
    code, out, _ = keras_vit_command(
        *("benchmark", "ViT-B/16", "--batch_sizes=2,8", "--dtypes=float32,bfloat16"),
        *("--tasks=inference", "--image_sizes=384", f"--output={path}"),
    )
    assert code == 0
    assert [(w.dtype, w.batch_size, w.image_size) for w in measured] == [
        ("float32", 2, 384),
        ("float32", 8, 384),
        ("bfloat16", 2, 384),
        ("bfloat16", 8, 384),
    ]
    assert "inference, tensorflow, bfloat16, 384 px" in out
    assert "batch of 8: out of memory" in out
    rows = list(csv.DictReader(path.open()))
    assert [row["error"] for row in rows] == ["", "out of memory"] * 2
    assert rows[0]["images_per_second"] == "0.5"


def test_benchmark_json_has_the_same_rows(keras_vit_command, measured, tmp_path):
    path = tmp_path / "speed.json"
    code, *_ = keras_vit_command("benchmark", "ViT-B/16", "--batch_sizes=1", f"--output={path}")
    assert code == 0
    assert [row["task"] for row in json.loads(path.read_text())] == ["inference", "training"]


def test_benchmark_that_measures_nothing_fails(keras_vit_command, measured):
    code, _, err = keras_vit_command("benchmark", "ViT-B/16", "--batch_sizes=64")
    assert code == 1
    assert "nothing could be measured; the last error: out of memory" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes the name of one model"),
        (["ViT-B/17"], "there is no model of this name"),
        (["ViT-B/16", "--batch_sizes=0"], "--batch_sizes must be positive integers. Received: 0"),
        (["ViT-B/16", "--tasks=sleep"], "--tasks must be of inference, training. Received: sleep"),
        (["ViT-B/16", "--output=speed.txt"], "must end with .csv or .json"),
    ],
)
def test_benchmark_refuses_what_it_cannot_measure(keras_vit_command, measured, arguments, message):
    code, _, err = keras_vit_command("benchmark", *arguments)
    assert code == 2
    assert message in err
    assert not measured
