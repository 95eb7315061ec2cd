"""Real trainings that are killed; the long form is a command of docs/reliability.md."""

import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "kill_trials.py"


def run(*flags):
    done = subprocess.run([sys.executable, TOOL, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_killed_training_ends_with_the_same_bits():
    assert "1 trials, 2 kills, 0 differ" in run("--trials=1", "--kills=2", "--seed=3")


@pytest.mark.slow
def test_killed_trainings_of_every_family_end_with_the_same_bits():
    assert "0 differ" in run("--trials=6", "--kills=3")


@pytest.mark.slow
def test_without_the_random_generators_the_bits_are_others():
    assert "1 differ" in run("--trials=1", "--kills=3", "--without_seeds")
