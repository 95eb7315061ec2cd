"""The example of own data, objects and evaluators runs, and is as short as it says."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "own_everything.py"


@pytest.mark.tensorflow_only
def test_own_everything_runs_in_less_than_forty_lines(tmp_path):
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) < 50
    assert len([line for line in lines if line.strip() and not line.startswith(('"""', "#"))]) < 40
    process = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "confidence/mean" in process.stdout
    assert (tmp_path / "run" / "model.keras").is_file()
