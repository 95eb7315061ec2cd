"""What one process can show; two of them run in tests/trainer/test_devices.py and tests/tools."""

import os
import pathlib
import subprocess
import sys

import pytest

from keras_vit.training import jax_workers

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "wrong", [{"PROCESS_ID": "2"}, {"PROCESS_ID": "first"}, {"JOB_ADDRESSES": ""}]
)
def test_join_of_variables_that_do_not_fit_is_refused(wrong, monkeypatch):
    right = {"JOB_ADDRESSES": "127.0.0.1:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    for name, value in (right | wrong).items():
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    with pytest.raises(ValueError, match="must fit together. Received: '2', "):
        jax_workers.join()


def test_join_after_jax_was_used_is_refused(monkeypatch):
    import jax

    jax.devices()
    for name, value in (("JOB_ADDRESSES", "127.0.0.1:1"), ("NUM_PROCESSES", "2")):
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    with pytest.raises(ValueError, match="named before it computes anything"):
        jax_workers.join()


def test_find_lost_knows_the_errors_of_collective_operations():
    error = ValueError("a trace\nUNKNOWN: Gloo all-reduce failed: Connection reset by peer \nmore")
    which, reason = jax_workers.find_lost(error)
    assert which == "JAX does not say which"
    assert reason == "JAX says: UNKNOWN: Gloo all-reduce failed: Connection reset by peer"
    assert jax_workers.find_lost(ValueError("a bad image")) is None


def test_a_process_with_an_error_ends_without_what_would_wait_for_the_others():
    program = (
        "import atexit\n"
        "from keras_vit.training import jax_workers\n"
        "atexit.register(print, 'waited')\n"
        "try:\n"
        "    with jax_workers.ending_at_once():\n"
        "        print('worked', end='')\n"
        "        {}\n"
        "except KeyError:\n"
        "    pass\n"
    )
    outcomes = []
    for work in ("pass", "raise KeyError"):
        result = subprocess.run(
            [sys.executable, "-c", program.format(work)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        outcomes.append((result.returncode, result.stdout))
    assert outcomes == [(0, "workedwaited\n"), (1, "worked")]
