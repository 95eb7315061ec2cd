"""The training step under the real TPU compiler, which needs no TPU."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.tensorflow_only  # once, in a child whose backend is JAX
@pytest.mark.slow
def test_training_step_compiles_for_tpus():
    pytest.importorskip("libtpu", reason="the TPU compiler is in the package libtpu")
    options = ["--topology=v3:2x2", "--batch=8", "--image_size=32"]
    result = subprocess.run(
        [sys.executable, "tools/tpu_compile.py", "ViT-Ti/16", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = dict(line.rsplit("  ", 1) for line in result.stdout.splitlines()[1:])
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows["cores"] == "8"
    # The gradients are added over the cores, and nothing is left on the host.
    assert int(rows["all-reduces"]) >= 1
