import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_fuzz_images_small_share_survives():
    # The full count is run by hand; docs/data.md has its outcome.
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "fuzz_images.py"), "--mutants=1500", "--seed=1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "1500 mutants of seed 1: " in result.stdout
    assert ", 0 wrong, 0 children died;" in result.stdout
    num_decoded = int(result.stdout.split(": ")[1].split()[0])
    assert 100 < num_decoded < 700
