"""What one process can show; two of them run in tests/train_step/test_devices.py."""

import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from keras_vit.distribution import jax_processes, workers
from tests.training.in_threads import run_workers

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "wrong", [{"PROCESS_ID": "2"}, {"PROCESS_ID": "first"}, {"JOB_ADDRESSES": ""}]
)
def test_join_of_variables_that_do_not_fit_is_refused(wrong, monkeypatch):
    right = {"JOB_ADDRESSES": "127.0.0.1:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    for name, value in (right | wrong).items():
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    with pytest.raises(ValueError, match="must fit together. Received: '2', "):
        jax_processes.join()


def test_join_after_jax_was_used_is_refused(monkeypatch):
    import jax

    jax.devices()
    for name, value in (("JOB_ADDRESSES", "127.0.0.1:1"), ("NUM_PROCESSES", "2")):
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    with pytest.raises(ValueError, match="named before it computes anything"):
        jax_processes.join()


def test_join_without_a_port_is_refused(monkeypatch):
    for name, value in (("JOB_ADDRESSES", "host0"), ("NUM_PROCESSES", "2"), ("PROCESS_ID", "1")):
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    with pytest.raises(ValueError, match="host:port .* Received: '2', '1' and 'host0'"):
        jax_processes.join()


@pytest.mark.parametrize(("sizes", "num_rounds"), [((0, 5), 1), ((248, 1), 1), ((3, 249), 2)])
def test_exchange_gives_all_the_bytes_of_each_and_short_ones_in_one_round(
    sizes, num_rounds, monkeypatch
):
    thread = threading.local()
    contents = [bytes(range(1, 250))[:size] for size in sizes]

    def process_allgather(array):
        thread.num_rounds += 1
        rows = thread.workers.exchange(array.tobytes())
        return np.stack([np.frombuffer(row, array.dtype) for row in rows])

    def work(workers):
        thread.workers, thread.num_rounds = workers, 0
        return jax_processes._exchange(contents[workers.index]), thread.num_rounds

    monkeypatch.setattr(jax_processes.multihost_utils, "process_allgather", process_allgather)
    assert run_workers(work) == [(contents, num_rounds)] * 2


def test_find_lost_knows_the_errors_of_collective_operations():
    error = ValueError("a trace\nUNKNOWN: Gloo all-reduce failed: Connection reset by peer \nmore")
    which, reason = jax_processes.find_lost(error)
    assert which == "JAX does not say which"
    assert reason == "JAX says: UNKNOWN: Gloo all-reduce failed: Connection reset by peer"
    others = [
        ValueError("a bad image"),
        ValueError("data/Gloomy.jpg: truncated"),
        FileNotFoundError("/data/NCCL/train"),
        KeyError("Gloo all-reduce failed"),
    ]
    assert [jax_processes.find_lost(other) for other in others] == [None] * 4


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (KeyError(), [1]),
        (SystemExit(143), [143]),
        (KeyboardInterrupt(), [130]),
        (workers.of_all(SystemExit(143)), []),
    ],
)
@pytest.mark.parametrize("is_initialized", [True, False])
def test_error_of_one_process_decides_how_it_ends(error, codes, is_initialized, monkeypatch):
    import jax

    registered = []
    monkeypatch.setattr(workers.atexit, "register", lambda *end: registered.append(end))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: is_initialized)
    with workers.ending_at_once():
        pass
    with pytest.raises(type(error)), workers.ending_at_once():
        raise error
    assert [code for _, code in registered] == codes * is_initialized


def test_process_with_an_error_of_its_own_ends_without_what_would_wait_for_the_others():
    program = (
        "import atexit, jax\n"
        "from keras_vit.distribution.workers import ending_at_once\n"
        "jax.distributed.is_initialized = lambda: True\n"
        "atexit.register(print, 'waited')\n"
        "with ending_at_once():\n"
        "    print('worked', end='')\n"
        "    raise SystemExit(143)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (143, "worked")
