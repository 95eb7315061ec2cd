"""Two worker processes over 127.0.0.1 come to what one device comes to."""

import contextlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_vit.distribution.strategy import mirrored_strategy
from tests.train_step import replica_cases

pytestmark = pytest.mark.tensorflow_only

ROOT = pathlib.Path(__file__).parents[2]
PARTS = ("history", "results", "weights", "others")
QUICK = ("all", "refused_step")
SLOW = tuple(name for name in replica_cases.CASES if name not in QUICK)


def read(path):
    outcome = {part: {} for part in PARTS}
    with np.load(path) as file:
        for key in file.files:
            part, name = key.split(":", 1)
            outcome[part][name] = file[key]
    return tuple(outcome.values())


@pytest.mark.parametrize("names", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_two_workers_come_to_what_one_device_comes_to(names, tmp_path):
    program = [sys.executable, "tests/train_step/worker_program.py", str(tmp_path), *names]
    result = subprocess.run(
        [sys.executable, "tools/launch_local.py", "--workers=2", "--", *program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    for name in names:
        # Two workers of one replica draw the masks of one worker of two replicas.
        own_masks = name in replica_cases.OWN_MASKS
        with mirrored_strategy().scope() if own_masks else contextlib.nullcontext():
            expected = replica_cases.run(name)
        for worker in range(2):
            replica_cases.assert_same(read(tmp_path / f"{name}-{worker}.npz"), expected, name)
