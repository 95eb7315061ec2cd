"""What a line of a list says of its image: one class, several labels, or values."""

import json
import math

import numpy as np

from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION

SEPARATOR = "|"
_VALUE = "value"


def is_value(key):
    """Whether a column is one of values, `value` or `value:NAME`."""
    return key.partition(":")[0] == _VALUE


def task_of(columns):
    """The task that a line's columns are for.

    >>> task_of(["path", "labels"]), task_of(["path", "value:age"]), task_of(["path", "label"])
    ('multilabel', 'regression', 'classification')
    """
    if "label" not in columns and "labels" in columns:
        return MULTILABEL
    return REGRESSION if "label" not in columns and any(map(is_value, columns)) else CLASSIFICATION


def read_labels(row, number, path):
    """The labels of a line, a list of names or integers.

    Args:
        row: A dict with `labels`, a JSON list, or text with `|` between the labels; empty for none.
        number: Of the line, for errors.
        path: Of the list, for errors.

    Raises:
        ValueError: For anything else.

    >>> read_labels({"labels": "cat | dog"}, 1, "a.csv"), read_labels({"labels": ""}, 1, "a.csv")
    (['cat', 'dog'], [])
    """
    given = row["labels"]
    labels = given
    if isinstance(given, str) and given.strip().startswith("["):
        try:
            labels = json.loads(given)
        except ValueError:
            labels = None
    elif isinstance(given, str):
        labels = [part for part in given.split(SEPARATOR) if given.strip()]
    is_list = isinstance(labels, list) and all(
        isinstance(label, str | int) and not isinstance(label, bool) and str(label).strip()
        for label in labels
    )
    if not is_list:
        raise ValueError(
            "`labels` must be a JSON list of names or integers, or text such as cat|dog. Received: "
            f"{given!r} in line {number} of {path}"
        )
    return [label.strip() if isinstance(label, str) else label for label in labels]


def read_values(row, number, path):
    """The values of a line, a dict from name to number; `value:NAME` is of the name NAME.

    Args:
        row: A dict with `value`, or with `value:NAME` for each of several values.
        number, path: As in `read_labels`.

    Raises:
        ValueError: For what is no finite number.

    >>> read_values({"path": "a.jpg", "value:age": "3"}, 1, "a.csv")
    {'age': 3.0}
    """
    values = {}
    for key, given in row.items():
        if not is_value(key):
            continue
        try:
            value = math.nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"`{key}` must be a finite number. Received: {given!r} in line {number} of {path}"
            )
        values[key.partition(":")[2].strip() or _VALUE] = value
    return values


def multi_hot(rows, num_classes):
    """Lists of class numbers -> float32 (n, C), 1 for each of them.

    >>> multi_hot([[0, 2], []], 3).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    hot = np.zeros((len(rows), num_classes), np.float32)
    for place, classes in enumerate(rows):
        hot[place, list(classes)] = 1.0
    return hot


def as_values(labels, num_images, split):
    """The values of arrays as float32 (n, K).

    Raises:
        ValueError: For what is no array of finite numbers, (n,) or (n, K).
    """
    values = np.asarray(labels)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    is_number = values.dtype.kind in "iuf" and bool(np.all(np.isfinite(values)))
    if not is_number or values.ndim != 2 or len(values) != num_images or not values.shape[1]:
        raise ValueError(
            f"Values must be finite numbers, ({num_images},) or ({num_images}, K). Received: "
            f"{values.dtype} {np.shape(labels)} for {split!r}"
        )
    return values.astype(np.float32)


def check_multi_hot(labels, where):
    """Raises ValueError unless labels are (n, C) in [0, 1]."""
    is_right = labels is None or (labels.ndim == 2 and labels.dtype.kind == "f")
    if not is_right or (labels is not None and not np.all((labels >= 0) & (labels <= 1))):
        raise ValueError(
            "Several labels an image must be multi-hot, (n, C) with 1 for each label that it has "
            f"and else 0, C at least 2. Received: {labels.dtype} {labels.shape} for {where}"
        )
