"""Data- and model-parallel trainings on JAX, on four forced host devices of a child process."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.trainer import replica_cases

pytestmark = pytest.mark.tensorflow_only  # once, in a child whose backend is JAX

ROOT = pathlib.Path(__file__).parents[2]
QUICK = ("all",)
# Keras refuses batches that the devices do not divide there.
UNEVEN = ("partial_last_batch", "uneven_batches")
SLOW = tuple(name for name in replica_cases.CASES if name not in (*QUICK, *UNEVEN))


@pytest.mark.parametrize("names", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_four_devices_come_to_what_one_comes_to(names):
    result = subprocess.run(
        [sys.executable, "tests/trainer/device_program.py", *names],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == 2 * len(names)
