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
def test_history_of_200_steps_is_the_same_byte_for_byte():
    assert "1 trials, 2 kills, 0 differ" in run("--trials=1", "--kills=2", "--steps=200")


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_killed_trainings_on_two_replicas_end_with_the_same_bits():
    assert "0 differ" in run("--trials=3", "--kills=3", "--strategy=mirrored")


@pytest.mark.slow
def test_trainings_that_are_asked_to_stop_do_so_and_end_with_the_same_bits():
    assert "0 differ" in run("--trials=2", "--kills=4", "--end=stop")


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["seeds", "moments", "metrics", "position"])
def test_what_a_resumption_leaves_out_makes_other_bits(left_out):
    assert "1 differ" in run("--trials=1", "--kills=5", f"--without={left_out}")


@pytest.mark.slow
def test_trainings_that_heed_no_signal_are_noticed():
    assert "1 differ" in run("--trials=1", "--kills=4", "--end=stop", "--without=signals")
