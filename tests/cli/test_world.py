"""Faults of the world are code 1 with the remedy, and outputs without a name are refused."""

import pytest

from keras_vit.cli import errors, streams
from keras_vit.data.catalog.folders import read_folder
from keras_vit.errors import DataLayoutError


def test_an_unknown_backend_is_1_with_the_known_ones(keras_vit_command, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    code, out, err = keras_vit_command("predict", "--model=x", "y")
    assert (code, out) == (1, "")
    assert "KERAS_BACKEND must be one of tensorflow, jax, torch. Received: 'nonsense'" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--model=x", "y", "--output="),
        ("evaluate", "--model=x", "--dataset=digits", "--output="),
        ("convert", "x.npz", ""),
        ("export", "--model=x", ""),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_output_is_refused_before_the_work(
    keras_vit_command, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, err = keras_vit_command(*arguments)
    assert (code, out) == (2, ""), err
    assert "must not be empty" in err
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_of_another_layout_is_1(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataLayoutError) as error:
        read_folder(tmp_path)
    assert errors.exit_code_and_message(error.value)[0] == errors.FAILURE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RecursionError("maximum recursion depth"), "nested too deep"),
        (MemoryError(), "out of memory"),
        (type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: 9 GB"), "out of memory"),
    ],
    ids=range(3),
)
def test_faults_of_the_world_are_1(error, words):
    code, message = errors.exit_code_and_message(error)
    assert code == errors.FAILURE
    assert words in message


def test_what_is_said_is_one_line_that_a_terminal_only_prints(capsys):
    streams.say("bad \x1b[2J name\nkeras-vit: error: forged" + "x" * 10**6)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert len(err) < 10_000
