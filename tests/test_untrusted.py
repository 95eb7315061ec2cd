"""Text and numbers from outside: bounded, quoted and cut, whatever they are."""

import math

import pytest

from keras_vit import untrusted
from keras_vit.errors import CheckpointError

NO_NUMBERS = ["", "٣", "1_0", " 1", "0x10", "nan", "inf", "1e999", "\ud800", "\0"]
HOSTILE = [*NO_NUMBERS, "9" * 5_000, "-" * 5_000]


@pytest.mark.parametrize("parse", [untrusted.parse_int, untrusted.parse_float])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_parsing_refuses_with_one_short_sentence(parse, text):
    with pytest.raises(ValueError, match="must be a") as error:
        parse(text)
    assert len(str(error.value)) < 200
    str(error.value).encode()


def test_parsing_gives_numbers_within_the_range():
    assert untrusted.parse_int(b"0042", high=42) == 42
    assert untrusted.parse_int("-3", low=-3) == -3
    assert untrusted.parse_float("-1.5e-3") == -0.0015
    for text in ("43", "-1"):
        with pytest.raises(ValueError, match="from 0 to 42"):
            untrusted.parse_int(text, high=42)
    with pytest.raises(ValueError, match="from 0.0 to 1.0"):
        untrusted.parse_float("1.01", low=0.0, high=1.0)


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan, math.inf, -1, "huge"])
def test_check_number_refuses_what_is_none_or_out_of_range(value):
    value = 10**5_000 if value == "huge" else value
    with pytest.raises(ValueError, match="`epsilon` must be a number from 0 to 1") as error:
        untrusted.check_number(value, "`epsilon`", low=0, high=1)
    assert len(str(error.value)) < 200


def test_printable_is_one_line_that_a_terminal_only_prints():
    text = "a\x1b]0;owned\x07\r\nkeras-vit: error: forged\u202e\u2028é\ud800"
    shown = untrusted.printable(text)
    assert "é" in shown
    assert shown.isprintable()
    shown.encode()
    assert len(untrusted.printable("x" * 10**6)) < 600


def test_csv_cells_are_no_formulas():
    for text in ("=cmd()", "+1", "-1", "@x", "\t=1"):
        assert untrusted.csv_cell(text) == f"'{text}"
    assert untrusted.csv_cell(-1.0) == -1.0
    assert untrusted.csv_cell("a=b") == "a=b"


def test_checkpoint_errors_quote_and_cut_what_comes_from_files():
    error = CheckpointError("\x1b[2J.npz", [f"+ {'k' * 10**6}\n+ forged \x1b[31m"] * 10**4)
    assert len(str(error)) < 30_000
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert len(str(error).split("\n")) == 22
