"""A small share of the damaged files that `tools/fuzz_checkpoints.py` loads by the thousand."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {"bytes": 100, "structured": 60}


@pytest.mark.tensorflow_only
def test_a_share_of_the_mutants_of_every_container_is_right_or_an_error():
    command = [sys.executable, "tools/fuzz_checkpoints.py", "--models=vit", "--seed=1"]
    command += [f"--num_{kind}={count}" for kind, count in COUNTS.items()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    rows = re.findall(r"\| \.(\w+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", result.stdout)
    assert len(rows) == 8
    for container, kind, *counts in rows:
        errors, equal, others, wrong = map(int, counts)
        assert errors + equal + others == COUNTS[kind], (container, kind)
        assert wrong == 0
        assert errors > COUNTS[kind] / 3
        assert others == 0 or container != "npz"
