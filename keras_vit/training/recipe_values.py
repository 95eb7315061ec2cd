"""The values of a recipe's fields: their types, and how a command line writes them.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import math
import os
import re
import types
import typing
from typing import Any

TUNES = ("all", "head", "last:N", "norms", "bias", "lora:R")
LORA_TARGETS = ("query", "key", "value", "output", "mlp")


def parse_tune(text):
    """What a `tune` names: its kind, and its number or None.

    Raises:
        ValueError: For anything but one of `TUNES`.

    >>> parse_tune("lora:8"), parse_tune("head")
    (('lora', 8), ('head', None))
    """
    if isinstance(text, str) and text in TUNES and ":" not in text:
        return text, None
    match = re.fullmatch(r"(last|lora):([1-9][0-9]{0,4})", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"`tune` must be one of {TUNES}. Received: {text!r}")
    return match.group(1), int(match.group(2))


def check_tune(recipe):
    """Raises ValueError for an unknown `tune`, and LoRA's fields without it or out of range."""
    is_lora = isinstance(recipe.tune, str) and parse_tune(recipe.tune)[0] == "lora"
    rules = {
        "lora_alpha": (lambda value: value > 0, "positive"),
        "lora_dropout": (lambda value: 0 <= value < 1, "in [0, 1)"),
        "lora_targets": (
            lambda names: names and set(names) <= {*LORA_TARGETS},
            f"of {LORA_TARGETS}",
        ),
    }
    for field, (is_good, rule) in rules.items():
        value = getattr(recipe, field)
        if value is not None and not is_lora:
            raise ValueError(
                f"`{field}` is of the tune 'lora:R'. Received: {value!r} for {recipe.tune!r}"
            )
        if value is not None and not is_good(value):
            raise ValueError(f"`{field}` must be {rule}. Received: {value!r}")


def _split_type(kind):
    """(type without None, whether None is allowed)."""
    if kind is Any:
        return str, False  # or an object
    if isinstance(kind, types.UnionType):
        (inner,) = (option for option in typing.get_args(kind) if option is not type(None))
        return inner, True
    return kind, False


def _type_name(kind):
    inner, optional = _split_type(kind)
    names = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        tuple[int, int]: "(height, width) or an integer",
        tuple[int, ...]: "integers",
        tuple[float, ...]: "numbers",
        tuple[str, ...]: "texts",
    }
    return names[inner] + (" or none" if optional else "")


def typed(field, value, kind):
    """`value` as its field's type: integers where numbers are expected, sizes from one integer.

    Args:
        field: Name of the field.
        value: What it was given.
        kind: Type of the field; `Any` is a name or an object.

    Raises:
        ValueError: For a value of another type.
    """
    if kind is Any:  # a name, a path or an object
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        return tuple(value) if isinstance(value, list) else value
    inner, optional = _split_type(kind)
    if value is None and optional:
        return None
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if inner is float and (is_integer or isinstance(value, float)) and math.isfinite(value):
        return float(value)
    if (inner is int and is_integer) or (inner in (bool, str) and isinstance(value, inner)):
        return value
    if inner == tuple[int, int]:
        sides = (value, value) if is_integer else value
        if isinstance(sides, tuple | list) and len(sides) == 2:
            return tuple(typed(field, side, int) for side in sides)
    items = typing.get_args(inner)
    if len(items) == 2 and items[1] is ... and isinstance(value, tuple | list):
        return tuple(typed(field, item, items[0]) for item in value)
    raise ValueError(f"`{field}` must be {_type_name(kind)}. Received: {value!r}")


def parse(field, text, kind):
    """A text of the command line as the value of a recipe's field.

    Args:
        field: Name of the field.
        text: Of the command line.
        kind: Type of the field.

    Raises:
        ValueError: For a text that is no value of that type.
    """
    inner, optional = _split_type(kind)
    # Of the positions "none" is a choice, and no recipe needs None.
    if optional and text.lower() == "none" and field != "position_embedding":
        return None
    try:
        if inner == tuple[int, int]:
            sides = tuple(int(side) for side in text.split(","))
            return typed(field, sides if len(sides) > 1 else sides[0], kind)
        if typing.get_origin(inner) is tuple:
            item = typing.get_args(inner)[0]
            return typed(field, tuple(item(part) for part in text.split(",")), kind)
        if inner is bool:
            return {"true": True, "false": False}[text.lower()]
        return typed(field, inner(text), kind)
    except (ValueError, KeyError):
        raise ValueError(f"`{field}` must be {_type_name(kind)}. Received: {text!r}") from None
