"""A small share of the damaged files that `tools/fuzz_checkpoints.py` loads by the thousand."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {"bytes": 100, "structured": 60}


MANY = {"bytes": 4000, "structured": 2000}
# What a share of mutants is drawn of: all containers, the folders of each format among them.
RUNS = [
    (["--models=vit"], COUNTS, 10),
    pytest.param(["--containers=folder"], MANY, 2, marks=pytest.mark.slow),
]


@pytest.mark.tensorflow_only
@pytest.mark.parametrize(("arguments", "counts", "num_rows"), RUNS)
def test_a_share_of_the_mutants_of_every_container_is_right_or_an_error(
    arguments, counts, num_rows
):
    command = [sys.executable, "tools/fuzz_checkpoints.py", *arguments, "--seed=1"]
    command += [f"--num_{kind}={count}" for kind, count in counts.items()]
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
    table = result.stdout.replace(",", "")
    rows = re.findall(r"\| \.(\w+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", table)
    assert len(rows) == num_rows
    for container, kind, *found in rows:
        errors, equal, others, wrong = map(int, found)
        assert errors + equal + others == counts[kind], (container, kind)
        assert wrong == 0
        assert errors > counts[kind] / 3
        assert others == 0 or container != "npz"
