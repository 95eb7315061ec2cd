"""Fields of a recipe as they are written on a command line.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import difflib

from keras_vit.training.recipe import FIELD_TYPES
from keras_vit.training.recipe_values import parse


def parse_overrides(assignments):
    """Recipe fields from the command line.

    Args:
        assignments: texts "FIELD=VALUE"; "none" is None, a size is "32" or "32,48", and
            several numbers are "0.01,0.03".

    Returns:
        A dict from field to a value of its type.

    Raises:
        ValueError: for a text without "=", an unknown or repeated field, or an ill-typed value.

    >>> parse_overrides(["learning_rate=0.01", "image_size=24,32", "epochs=none"])
    {'learning_rate': 0.01, 'image_size': (24, 32), 'epochs': None}
    """
    overrides = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        field, text = field.strip(), text.strip()
        if not equals:
            raise ValueError(f"a recipe's field is set as FIELD=VALUE. Received: {assignment!r}")
        check_field(field)
        if field in overrides:
            raise ValueError(f"a field can be set once. Received: `{field}` twice")
        overrides[field] = parse(field, text, FIELD_TYPES[field])
    return overrides


def check_field(field):
    if field not in FIELD_TYPES:
        close = difflib.get_close_matches(field, FIELD_TYPES, n=3) or sorted(FIELD_TYPES)
        raise ValueError(f"a recipe has no field {field!r}. Close: {', '.join(close)}")
