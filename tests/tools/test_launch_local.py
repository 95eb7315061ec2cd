"""The launcher with workers that need no TensorFlow."""

import json
import pathlib
import signal
import subprocess
import sys

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "launch_local.py"
INDEX = "import json, os; index = json.loads(os.environ['TF_CONFIG'])['task']['index']; "


def start(program, *flags):
    return subprocess.Popen(
        [sys.executable, TOOL, *flags, "--", sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_worker_is_given_its_place_in_one_cluster():
    process = start("import os; print(os.environ['TF_CONFIG'])", "--workers=3")
    output, _ = process.communicate()
    assert process.returncode == 0
    configs = dict(line[1:].split("] ") for line in output.splitlines())
    configs = {name: json.loads(text) for name, text in configs.items()}
    assert {name: config["task"]["index"] for name, config in configs.items()} == {
        f"worker {index}": index for index in range(3)
    }
    (cluster,) = {json.dumps(config["cluster"]) for config in configs.values()}
    assert len(set(json.loads(cluster)["worker"])) == 3


def test_each_worker_is_given_its_place_on_jax_too():
    names = [f"KERAS_DISTRIBUTION_{n}" for n in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")]
    process = start(f"import os; print(*(os.environ[name] for name in {names}))")
    output, _ = process.communicate()
    assert process.returncode == 0
    address = output.split()[2]
    assert sorted(output.splitlines()) == [
        f"[worker {index}] {address} 2 {index}" for index in range(2)
    ]


def test_a_worker_that_goes_on_after_another_failed_is_killed():
    process = start(INDEX + "import time; time.sleep(60 * index); exit(3)", "--grace=0.5")
    _, errors = process.communicate()
    assert process.returncode == 3
    assert errors == "worker 1 goes on and is killed\n"


def test_sigterm_is_passed_on_to_all_workers():
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('got it'), sys.exit(143)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = start(program)
    ready = sorted(process.stdout.readline() for _ in range(2))
    assert ready == ["[worker 0] ready\n", "[worker 1] ready\n"]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143
    assert output.count("got it") == 2
