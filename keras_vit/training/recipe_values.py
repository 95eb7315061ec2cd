"""The values of a recipe's fields: their types, and how a command line writes them.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import math
import os
import types
import typing
from typing import Any


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
