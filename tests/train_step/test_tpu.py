"""The training step under the real TPU compiler, which needs no TPU."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "tpu_compile.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.tensorflow_only  # once, in a child of its own backend
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "cores", "options"),
    [
        ("jax", "8", ()),
        ("tensorflow", "1", ()),
        ("tensorflow", "1", ("--remat", "--accumulation_steps=2")),
        ("tensorflow", "1", ("--forward",)),
    ],
)
def test_step_compiles_for_tpus(backend, cores, options):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the package libtpu")
    options = [
        f"--backend={backend}",
        "--topology=v3:2x2",
        "--batch=8",
        "--image_size=32",
        *options,
    ]
    result = subprocess.run(
        [sys.executable, "tools/tpu_compile.py", "ViT-Ti/16", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = {line[:15].strip(): line[16:] for line in result.stdout.splitlines()[1:]}
    assert rows["cores"] == cores
    # On several cores the gradients are added over them.
    assert (int(rows["all-reduces"]) >= 1) == (cores != "1")
    assert rows["host operations"] == rows["dynamic shapes"] == "0"


def test_largest_that_fits_walks_down_to_it(tool, capsys):
    jax = pytest.importorskip("jax")
    tried = []

    class Step:
        def compile(self, batch):
            tried.append(batch)
            if batch > 50:
                raise jax.errors.JaxRuntimeError(
                    "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (18.69G) "
                    "exceeds available HBM (15.75G)."
                )
            return "program"

    assert tool.largest_that_fits(Step(), 130) == (48, "program")
    assert tried == [128, 96, 64, 48]
    assert "does not fit    64: 18.69G of 15.75G" in capsys.readouterr().out


def test_largest_that_fits_passes_other_errors_on(tool):
    jax = pytest.importorskip("jax")

    class Step:
        def compile(self, batch):
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such topology")

    with pytest.raises(jax.errors.JaxRuntimeError, match="no such topology"):
        tool.largest_that_fits(Step(), 8)


def test_batch_sizes_are_powers_and_halves(tool):
    assert tool.batch_sizes(1) == [1]
    assert tool.batch_sizes(13) == [1, 2, 3, 4, 6, 8, 12]
