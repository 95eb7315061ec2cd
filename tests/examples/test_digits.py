"""The examples run, so that they cannot rot."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.tensorflow_only


def run_demo(workdir, *flags):
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / "digits.py"), f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_demo_quick_tells_the_whole_story(tmp_path):
    output = run_demo(tmp_path / "demo", "--quick")
    assert re.search(r"digit.png: a [5-9]; predicted: [5-9], probability [01]\.\d", output)
    assert re.search(r"\n +1 +[\d.]+ % +[\d.]+ %\n", output)
    assert f"Everything is in {tmp_path / 'demo'}" in output
    for name in ("pretrain/model.keras", "finetune/metrics.json", "serving/1/saved_model.pb"):
        assert (tmp_path / "demo" / name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_reaches_its_accuracy(seed, tmp_path):
    output = run_demo(tmp_path / "demo", f"--seed={seed}", "--table_seeds=1")
    accuracies = [float(a) for a in re.findall(r"test ([\d.]+) % of", output)]
    assert accuracies[1] >= 97.0
    table = re.findall(r"\n +(\d+) +([\d.]+) % +([\d.]+) %", output)
    assert [int(shots) for shots, _, _ in table] == [1, 5, 20]
    assert all(float(tuned) > float(scratch) for _, tuned, scratch in table[1:])
