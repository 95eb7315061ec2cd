"""The contract of every subcommand (G29): exit codes, one line on stderr, nothing half done."""

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from keras_vit.cli import main as main_module
from keras_vit.cli.main import COMMANDS

COMMAND = [sys.executable, "-m", "keras_vit"]


def assert_one_line(stderr, *words):
    assert stderr.startswith("keras-vit: ")
    assert stderr.count("\n") == 1
    assert stderr.endswith("\n")
    for word in words:
        assert word in stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_command_keeps_the_protocol(name):
    command = importlib.import_module(COMMANDS[name])
    assert "\n" not in command.SUMMARY
    assert command.USAGE.startswith(f"keras-vit {name}")
    assert callable(command.define_flags)
    assert callable(command.run)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_flag(name, keras_vit_command):
    code, out, err = keras_vit_command(name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: keras-vit {name}" in out
    flag_values = main_module.flags.make_flag_values(importlib.import_module(COMMANDS[name]))
    assert len(list(flag_values)) > 2
    for flag in flag_values:
        assert f"--{flag}" in out or f"--[no]{flag}" in out or f"(-{flag})" in out


def test_help_without_command_shows_all_commands(keras_vit_command):
    code, out, err = keras_vit_command("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["a command is needed", "predict"]),
        (["exprot"], ["no command 'exprot'", "did you mean export?"]),
        (["--model=x"], ["flags come after the command"]),
        (["predict", "--modle=x", "y"], ["no flag --modle", "did you mean --model"]),
        (["predict", "x.png"], ["either --model or --saved_model"]),
        (["predict", "--model=x"], ["needs paths"]),
        (["predict", "--model=x", "--top_k=many", "y"], ["--top_k=many", "integer is expected"]),
        (["predict", "--model=x", "--top_k=0", "y"], ["--top_k=0", "positive"]),
        (["predict", "--model=x", "y", "--activation=relu"], ["<softmax|sigmoid|none>"]),
        (["predict", "y", "--model"], ["Missing value for flag --model"]),
        (["export", "folder"], ["export needs --model"]),
        (["export", "--model=x"], ["one path to write to"]),
        (["models", "a", "b"], ["one pattern"]),
        (["models", "ViT-B/61"], ["no name matches 'ViT-B/61'", "ViT-B/16"]),
        (["models", "--checkpoints", "sam/ViT-B16"], ["did you mean", "sam/ViT-B_16"]),
    ],
)
def test_usage_error_is_2_with_one_line(arguments, words, keras_vit_command):
    code, out, err = keras_vit_command(*arguments)
    assert (code, out) == (2, "")
    assert_one_line(err, "error: ", *words)


def _fail(error):
    def run(flags, arguments):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.npz"), 1, ["a.npz: No such file"]),
        (MemoryError(), 1, ["out of memory"]),
        (ModuleNotFoundError("x", name="jax"), 1, ["package 'jax'"]),
        (ValueError("two\n lines"), 70, ["ValueError: two lines", "--debug"]),
        (KeyError("key"), 70, ["KeyError: 'key'", "--debug"]),
        (KeyboardInterrupt(), 130, ["keras-vit: interrupted"]),
    ],
)
def test_exception_becomes_exit_code(error, code, words, keras_vit_command, monkeypatch):
    monkeypatch.setattr("keras_vit.cli.models.run", _fail(error))
    received, out, err = keras_vit_command("models")
    assert (received, out) == (code, "")
    assert_one_line(err, *words)


def test_library_error_is_told_from_a_fault_by_who_raised_it(keras_vit_command, monkeypatch):
    def bad_argument(flags, arguments):
        import keras_vit

        keras_vit.create_model("ViT-B/15")

    def bad_file(flags, arguments):
        import keras_vit

        keras_vit.from_pretrained(__file__)

    monkeypatch.setattr("keras_vit.cli.models.run", bad_argument)
    code, _, err = keras_vit_command("models")
    assert code == 2
    assert_one_line(err, "Received: 'ViT-B/15'", "ViT-B/16")
    monkeypatch.setattr("keras_vit.cli.models.run", bad_file)
    code, _, err = keras_vit_command("models")
    assert code == 1
    assert_one_line(err, __file__)


def test_debug_shows_the_traceback(keras_vit_command, monkeypatch):
    monkeypatch.setattr("keras_vit.cli.models.run", _fail(KeyError("key")))
    code, _, err = keras_vit_command("models", "--debug")
    assert code == 70
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("keras-vit: error: unexpected KeyError")


def test_help_wrong_flags_and_lists_of_models_import_nothing_heavy():
    program = (
        "import sys; sys.argv = ['keras-vit', 'predict', '--help']\n"
        "from keras_vit.cli.main import main\n"
        "assert main() == 0 and main(['predict', '--x']) == 2\n"
        "heavy = {'keras', 'tensorflow', 'numpy', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert main(['models', '*B*']) == main(['models', '--checkpoints']) == 0\n"
        "heavy = {'keras', 'tensorflow', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_closed_stdout_is_141_without_a_word():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as stdout:
        done = subprocess.run(
            [*COMMAND, "models", "--checkpoints"], stdout=stdout, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_full_disk_behind_stdout_is_1_with_one_line():
    with open("/dev/full", "wb") as stdout:
        done = subprocess.run(
            [*COMMAND, "models", "--checkpoints"], stdout=stdout, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert_one_line(done.stderr, "No space left on device")


def test_interrupt_is_130_with_one_line():
    process = subprocess.Popen(
        [*COMMAND, "predict", "--model=x", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0)  # it waits for paths on stdin
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert_one_line(err, "interrupted")


def test_failure_in_a_fresh_process_is_one_line(image_file, tmp_path):
    done = subprocess.run(
        [*COMMAND, "predict", f"--model={tmp_path}/none.keras", image_file],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, "error: ", "none.keras")
