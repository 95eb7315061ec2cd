"""Objects in recipes: how they are described, and made anew for each training.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

import dataclasses


def described(value):
    """A value as JSON can hold it; an object by its class and its configuration.

    Two trainings are the same if their descriptions are.

    >>> described((1, "a", None))
    [1, 'a', None]
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [described(part) for part in value]
    if isinstance(value, dict):
        return {str(key): described(part) for key, part in value.items()}
    if hasattr(value, "__qualname__"):  # a function or a class
        return {"class": f"{value.__module__}.{value.__qualname__}"}
    description = {"class": f"{type(value).__module__}.{type(value).__qualname__}"}
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        config = {field.name: getattr(value, field.name) for field in fields}
    elif callable(getattr(value, "get_config", None)):
        # Keras counts the objects of a process in their names.
        config = {key: part for key, part in value.get_config().items() if key != "name"}
    else:
        return description
    return {**description, "config": described(config)}


def copied(value, **changes):
    """A new object of the same configuration, for one that keeps variables.

    Args:
        value: A Keras optimizer or metric.
        **changes: What is other in its configuration.
    """
    return type(value).from_config({**value.get_config(), **changes})


def is_known(value, known, objects):
    """Whether a value is one of the names of a field, or no name where it takes objects too."""
    return value in known if isinstance(value, str) or not objects else True


def is_object_or_name(field, value, methods):
    """Whether a value is a name, or an object that has all of these methods.

    Args:
        field: Name of the recipe's field.
        value: What it was given.
        methods: Names of methods.
    """
    is_optional = field in ("schedule", "metrics")  # and has no names
    if value is None or isinstance(value, str):
        return field == "tune" or is_optional == (value is None)
    if isinstance(value, type | bool | int | float):
        return False
    parts = value if isinstance(value, tuple) else (value,)
    return all(callable(getattr(part, method, None)) for part in parts for method in methods)
