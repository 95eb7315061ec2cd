"""Text and numbers that come from files and servers: bounded, quoted and cut before they are used.

`int`, `float` and plain f-strings are for what this program made; these functions are for the rest.
"""

import math
import re
import unicodedata

MAX_DIGITS = 18
MAX_MESSAGE = 500
# What a spreadsheet takes as the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")


def parse_int(text, *, low=0, high=2**62):
    """An integer in decimal digits, within a range.

    Args:
        text: String or bytes, from anywhere.
        low: The smallest value that is taken.
        high: The largest.

    Raises:
        ValueError: for anything else; of one kind and length, whatever the text is.

    >>> parse_int("16")
    16
    >>> parse_int("-5", high=9)
    Traceback (most recent call last):
    ...
    ValueError: must be an integer from 0 to 9. Received: '-5'
    """
    text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    if re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", text):
        value = int(text)
        if low <= value <= high:
            return value
    raise ValueError(f"must be an integer from {low} to {high}. Received: {quoted(text, 40)}")


def parse_float(text, *, low=-math.inf, high=math.inf):
    """A finite number in decimal digits, within a range; ValueError for anything else."""
    text = str(text)
    if len(text) <= 2 * MAX_DIGITS + 20 and _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value) and low <= value <= high:
            return value
    raise ValueError(f"must be a number from {low} to {high}. Received: {quoted(text, 40)}")


def check_number(value, what, *, low, high):
    """A number that a file's JSON gave, as a float, if it is one and within a range.

    Args:
        value: Anything.
        what: What it is, for the message.
        low: The smallest value that is taken.
        high: The largest.

    Raises:
        ValueError: for another type (a boolean is one), a number that is not finite, or one outside
            of the range.
    """
    if type(value) in (int, float) and low <= value <= high:  # false for NaN
        return float(value)
    raise ValueError(f"{what} must be a number from {low} to {high}. Received: {quoted(value, 60)}")


def printable(text, max_chars=MAX_MESSAGE):
    """Text in one line that a terminal only prints, cut where it is long.

    Control characters, line ends, marks that turn the direction of writing, and what is no Unicode
    text become escapes.

    >>> printable("a\\x1b[31m\\nb")
    'a\\\\x1b[31m\\\\nb'
    """
    text = str(text)
    cut = text if len(text) <= max_chars else f"{text[:max_chars]}..."
    if cut.isprintable():
        return cut
    return "".join(letter if _is_plain(letter) else _escape(letter) for letter in cut)


def quoted(value, max_chars=80):
    """A value as Python writes it, in one line and cut where it is long."""
    if isinstance(value, str | bytes):
        value = value[: max_chars + 1]
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return printable(text if len(text) <= max_chars else f"{text[:max_chars]}...", max_chars + 3)


def csv_cell(value):
    """What a cell of a CSV file may hold: text that a spreadsheet would take for a formula is
    marked with an apostrophe, as spreadsheets do themselves.

    >>> csv_cell("=1+1"), csv_cell("a.png"), csv_cell(-0.5)
    ("'=1+1", 'a.png', -0.5)
    """
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def is_text(value):
    """Whether a string can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(letter):
    # Joiners are part of some scripts' words, and of emoji; Co is for private use, Zs are spaces.
    return (
        letter.isprintable()
        or letter in "\u200c\u200d"
        or unicodedata.category(letter) in ("Co", "Zs")
    )


def _escape(letter):
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")
