"""Trainings on JAX: on four forced host devices of a child process, and in two processes."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.train_step import replica_cases

pytestmark = pytest.mark.tensorflow_only  # once, in a child whose backend is JAX

ROOT = pathlib.Path(__file__).parents[2]
QUICK = ("all",)
# Keras refuses batches that the devices do not divide there.
UNEVEN = ("partial_last_batch", "uneven_batches")
SLOW = tuple(name for name in replica_cases.CASES if name not in (*QUICK, *UNEVEN))


@pytest.mark.parametrize("names", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_four_devices_come_to_what_one_comes_to(names):
    lines = run_on_four_devices("tests/train_step/device_program.py", *names)
    assert len(lines) == 3 * len(names)


@pytest.mark.slow
def test_fully_sharded_run_is_resumed_with_the_same_bits_and_on_one_device(tmp_path):
    (line,) = run_on_four_devices("tests/train_step/fsdp_program.py", str(tmp_path))
    assert line.startswith("a device holds 0.2")


def run_on_four_devices(*arguments):
    """The lines that a program prints on four devices of JAX, which the host is forced to have."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": "jax",
            # Small models are compiled for longer than they compute.
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4 "
            "--xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines()


def start_process(folder, *stored, **variables):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "tests/train_step/process_program.py", str(folder), *stored],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to(tmp_path):
    end(start_process(tmp_path / "one"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    processes = [
        start_process(
            tmp_path / "two",
            str(tmp_path / "one" / "model.keras"),
            **{
                f"KERAS_DISTRIBUTION_{name}": value
                for name, value in zip(names, (address, "2", str(index)), strict=True)
            },
        )
        for index in range(2)
    ]
    for process in processes:
        assert "2 processes" in end(process)
    with np.load(tmp_path / "one" / "0.npz") as expected:
        for index in range(2):
            with np.load(tmp_path / "two" / f"{index}.npz") as received:
                assert set(received.files) == set(expected.files)
                for name in expected.files:
                    # accuracies are exact, losses and weights sums in another order
                    tolerance = 0 if name.endswith("accuracy") else replica_cases.WEIGHTS
                    np.testing.assert_allclose(
                        received[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name
                    )
