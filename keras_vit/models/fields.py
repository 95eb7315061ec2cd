"""Fields of the model configurations: what is known about each, and the checks of their values.

Every list of field names in the package is made from this metadata by `names_of`, so that a new
field is described once, where it is declared:

    gelu: str = field("tanh", chosen_at_load=True, changes_numbers=True)
"""

import dataclasses
import difflib
import math

_KEY = "keras_vit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldInfo:
    """What is known about a field of a configuration.

    Attributes:
        chosen_at_load: Whether `from_pretrained` takes it as an argument: no array of a file tells
            its value, and no array depends on it.
        changes_numbers: Whether two models with the same arrays compute different numbers if this
            field differs, apart from dropout.
        tells_presets: Whether the named models differ in it.
        in_recipe: Whether a recipe can set it for a new model.
        optional_part: Whether the field adds a part that most models lack.  A checkpoint format
            holds a value other than the default only if its `Format.optional_parts` names it.
    """

    chosen_at_load: bool = False
    changes_numbers: bool = False
    tells_presets: bool = False
    in_recipe: bool = False
    optional_part: bool = False


def field(default=dataclasses.MISSING, **info):
    """A dataclass field with a `FieldInfo`.

    Args:
        default: Default value; without one, the field must be given.
        **info: Attributes of `FieldInfo`.
    """
    return dataclasses.field(default=default, metadata={_KEY: FieldInfo(**info)})


def names_of(config, attribute):
    """The names of the fields for which an attribute of `FieldInfo` is true, in their order.

    Args:
        config: A configuration or its class.
        attribute: Name of the attribute, such as `"changes_numbers"`.
    """
    return tuple(
        known.name
        for known in dataclasses.fields(config)
        if getattr(known.metadata.get(_KEY, FieldInfo()), attribute)
    )


def optional_parts(config):
    """The fields that add a part that most models lack, with their values: name -> value."""
    defaults = {known.name: known.default for known in dataclasses.fields(config)}
    return {
        name: value
        for name in names_of(config, "optional_part")
        if (value := getattr(config, name)) != defaults[name]
    }


def check_positive(config, *names):
    """Raises ValueError unless each named field of `config` is an integer of at least 1."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}")


def check_number(config, *names):
    """Raises ValueError unless each named field of `config` is a finite number."""
    for name in names:
        value = getattr(config, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ValueError(f"`{name}` must be a finite number. Received: {value!r}")


def check_rates(config, *names):
    """Raises ValueError unless each named field of `config` is in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {value!r}")


def check_one_of(config, **choices):
    """Raises ValueError unless each field is one of its choices."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ValueError(f"`{name}` must be one of {tuple(known)}. Received: {value!r}")


def check_num_classes(config):
    """Raises ValueError unless `num_classes` is an integer of at least 0."""
    value = config.num_classes
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(
            f"`num_classes` must be an integer of at least 0 (0: no head). Received: {value!r}"
        )


def pair(value, name):
    """(height, width) from one integer or two.

    Raises:
        ValueError: if it is neither, or not positive.

    >>> pair(224, "image_size"), pair([16, 24], "image_size")
    ((224, 224), (16, 24))
    """
    sides = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(sides, tuple | list)
        or len(sides) != 2
        or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides)
    ):
        raise ValueError(
            f"`{name}` must be a positive integer or (height, width). Received: {value!r}"
        )
    return tuple(sides)


def replace_fields(config, changes):
    """`dataclasses.replace` whose error for an unknown field names the close ones."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(
                f"{type(config).__name__} has no field {name!r}. Close: {', '.join(close)}"
            )
    return dataclasses.replace(config, **changes)
