"""The tutorials run from top to bottom, cell by cell."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "tutorials"


def run(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_looking_inside():
    run("look_inside.py")


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    "name", ["frozen_probe_lora.py", "own_pictures.py", "table5_tiny.py", "without_labels.py"]
)
def test_a_tutorial_that_trains(name):
    run(name)
