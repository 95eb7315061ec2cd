"""Workers that are killed; the long forms are commands of docs/distribution.md."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]  # children choose their backend

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("backend", "flags", "said"),
    [
        ("tensorflow", ("--kills=2",), "2 kills: equal"),
        ("tensorflow", ("--kills=1", "--end=stop"), "1 kills: equal"),
        # By no more than a rounded bit of the momentum, else the exit code is another.
        ("tensorflow", ("--kills=1", "--restart=mirrored"), "1 kills: weights differ by"),
        ("jax", ("--kills=2",), "2 kills: equal"),
        ("jax", ("--kills=1", "--end=stop"), "1 kills: equal"),
    ],
)
def test_kill_workers_restarted_job_ends_as_the_unbroken_one(backend, flags, said):
    result = subprocess.run(
        [sys.executable, "tools/kill_workers.py", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert said in result.stdout
