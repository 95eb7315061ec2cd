"""Images in files: of a folder's classes, or of a list of paths and labels."""

import collections
import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_vit.data.catalog.folders import FolderSplit
from keras_vit.data.sources import list_targets
from keras_vit.data.sources.protocol import Source, digest, keep
from keras_vit.data.splits import TRAIN
from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION

LIST_ENDINGS = (".csv", ".jsonl")
_COLUMNS = ("path", "label", "split")


def file_version(path):
    """Returns (bytes, time in ns) of a file, or the error's code where it cannot be asked."""
    import tensorflow as tf

    try:
        if "://" not in os.fspath(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        status = tf.io.gfile.stat(os.fspath(path))
    except OSError as error:
        return error.errno
    except tf.errors.OpError as error:
        return error.error_code
    return status.length, status.mtime_nsec


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Images in files that are read when they are needed.

    Args:
        splits: Paths and labels of each split.
        rule: How the splits were made, where it was not by the user; "" where it was.
        task: What the labels are, see `keras_vit.data.tasks`.
    """

    splits: Mapping[str, FolderSplit]
    rule: str = ""
    task: str = CLASSIFICATION

    def num_examples(self, split):
        """Returns the number of files."""
        return len(self.splits[split].paths)

    def labels(self, split):
        """Returns the labels, int64 (n,), or float32 (n, C) of several labels or values."""
        labels = self.splits[split].labels
        return labels if isinstance(labels, np.ndarray) else np.array(labels, np.int64)

    def paths(self, split):
        """Returns the paths of the files."""
        return self.splits[split].paths

    def image_dtype(self, split):
        """Returns "string": the files are encoded images."""
        return "string"

    def stream(self, split):
        """Returns a `tf.data.Dataset` of (the bytes of a file, label)."""
        import tensorflow as tf

        files = self.splits[split]
        paths = [os.fsencode(path) for path in files.paths]
        stream = tf.data.Dataset.from_tensor_slices((paths, self.labels(split)))
        return stream.map(lambda path, label: (tf.io.read_file(path), label))

    def without(self, excluded):
        """Returns the source without some files."""
        splits = dict(self.splits)
        for split, indices in excluded.items():
            files = splits[split]
            kept = np.flatnonzero(keep(len(files.paths), indices))
            labels = files.labels
            if isinstance(labels, np.ndarray):
                labels = labels[kept]
            else:
                labels = tuple(labels[k] for k in kept)
            splits[split] = FolderSplit(tuple(files.paths[k] for k in kept), labels)
        return dataclasses.replace(self, splits=splits)

    def fingerprint(self, split):
        """Returns a digest of the names, labels, sizes and times of the files."""
        files = self.splits[split]
        root = os.path.commonpath(map(os.path.dirname, files.paths)) if files.paths else ""
        names = [os.path.relpath(path, root) for path in files.paths]
        labels = files.labels
        if isinstance(labels, np.ndarray):
            labels = (labels.shape, digest(labels.tobytes()))
        return digest(names, labels, [file_version(path) for path in files.paths])


def _csv_rows(file, path):
    """Yields (line number, dict) of a CSV file with or without a header."""
    rows = csv.reader(file)
    columns = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            names = _header(row)
            columns = names or list(_COLUMNS)
            if names:
                continue
        if len(row) > len(columns) or len(row) < 2:
            raise ValueError(
                f"A line of a list must be `path,label` or `path,label,split`. Received: {row} in "
                f"line {rows.line_num} of {path}; put text with commas into double quotes."
            )
        yield rows.line_num, dict(zip(columns, row, strict=False))


def _header(row):
    """The names of the columns where a line is a header, else None."""
    parts = [cell.strip().partition(":") for cell in row]
    names = [name.strip().lower() + colon + rest for name, colon, rest in parts]
    is_target = {"label", "labels"} & set(names) or any(map(list_targets.is_value, names))
    return names if "path" in names and is_target else None


def _jsonl_rows(file, path):
    """Yields (line number, dict) of a file with a JSON object on each line."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"A line of a list must be a JSON object. Received: {line.strip()[:80]!r} in line "
                f"{number} of {path}: {error}"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                'A line of a list must be a JSON object such as {"path": "cat.jpg", "label": '
                f'"cat"}}. Received: {line.strip()[:80]!r} in line {number} of {path}'
            )
        yield number, row


def _checked(row, number, path):
    """Returns (path of the image, split) of a row."""
    image = row.get("path")
    if not isinstance(image, str) or not image.strip():
        raise ValueError(
            f"A line of a list must name a file as `path`. Received: {image!r} in line {number} "
            f"of {path}"
        )
    split = row.get("split") or TRAIN
    if not isinstance(split, str):
        raise ValueError(f"`split` must be text. Received: {split!r} in line {number} of {path}")
    return image.strip(), split.strip()


def _read_label(row, number, path):
    """The one label of a row, in a list."""
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
        raise ValueError(
            "A line of a list must have a class as `label`, a name or an integer. Received: "
            f"{label!r} in line {number} of {path}; several labels are `labels`, and numbers to "
            "predict are `value`"
        )
    return [label.strip() if isinstance(label, str) else label]


def _class_names(labels, class_names, path):
    """Returns the class names, and each label's class, from a dict of label -> first line."""
    is_number = all(isinstance(label, int) or label.isdecimal() for label in labels)
    if class_names is not None:
        class_names = tuple(class_names)
        classes = {name: k for k, name in enumerate(class_names)}
        known = lambda label: classes.get(str(label))  # noqa: E731
        if is_number and not all(str(label) in classes for label in labels):
            known = lambda label: int(label) if int(label) < len(class_names) else None  # noqa: E731
        found = {label: known(label) for label in labels}
        for label, index in found.items():
            if index is None:
                raise ValueError(
                    f"A label must be one of the {len(class_names)} class names or their numbers. "
                    f"Received: {label!r} in line {labels[label]} of {path}"
                )
        return class_names, found
    if is_number:
        negative = [label for label in labels if int(label) < 0]
        if negative:
            raise ValueError(
                f"A label must be a name or an integer from 0 on. Received: {negative[0]} in line "
                f"{labels[negative[0]]} of {path}"
            )
        found = {label: int(label) for label in labels}
        return tuple(str(k) for k in range(max(found.values()) + 1)), found
    names = sorted({str(label) for label in labels}, key=str.encode)
    return tuple(names), {label: names.index(str(label)) for label in labels}


def read_list(path, class_names=None):
    """Reads a list of images with their labels.

    A CSV file has lines `path,label[,split]`, with or without such a header; a JSONL file has
    objects with these keys.  Paths are relative to the list's own folder; without a split an image
    is for training.  Labels are names, whose classes are sorted by their bytes, or, where all of
    them are, integers from 0 on.

    Images with several labels have `labels` in the place of `label`, a JSON list or text such as
    `cat|dog`.  Images with values to predict have `value`, a number, or `value:NAME` for each of
    several.

    Args:
        path: Path of the list, whose name ends in `.csv` or `.jsonl`.
        class_names: The classes in their order; None takes those of the list.

    Returns:
        `(class_names, source)`: a tuple of names (of values, theirs) and a `FileSource`.

    Raises:
        ValueError: for a line that is none of these, with its number.
        OSError: if the list cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    parse = _jsonl_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    rows, tasks = [], {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in parse(file, path):
                tasks.setdefault(list_targets.task_of(row), number)
                task = next(iter(tasks))
                if len(tasks) > 1:
                    raise ValueError(
                        "All lines of a list must have the same of `label`, `labels` and `value`. "
                        f"Received: another in line {number} of {path}"
                    )
                rows.append((*_checked(row, number, path), _READ[task](row, number, path), number))
    except UnicodeDecodeError as error:
        raise ValueError(f"A list must be UTF-8 text. Received: {path}: {error}") from None
    except csv.Error as error:
        raise ValueError(f"A list must be CSV. Received: {path}: {error}") from None
    if not rows:
        raise ValueError(f"A list must have lines `path,label`. Received: {path}, empty")
    class_names, found = _targets(task, rows, class_names, path)
    paths, labels = collections.defaultdict(list), collections.defaultdict(list)
    for (image, split, *_), label in zip(rows, found, strict=True):
        paths[split].append(os.path.join(path.resolve().parent, os.path.expanduser(image)))
        labels[split].append(label)
    as_labels = tuple if task == CLASSIFICATION else np.stack
    splits = {split: FolderSplit(tuple(paths[split]), as_labels(labels[split])) for split in paths}
    return class_names, FileSource(splits=splits, task=task)


_READ = {
    CLASSIFICATION: _read_label,
    MULTILABEL: list_targets.read_labels,
    REGRESSION: list_targets.read_values,
}


def _targets(task, rows, class_names, path):
    """`(class_names, labels)`: the label of each row, an integer or a float32 array (C,).

    Args:
        task: What the labels are.
        rows: (path of the image, split, what the line says, number of the line).
        class_names: As in `read_list`.
        path: Of the list, for errors.
    """
    if task == REGRESSION:
        names = list(rows[0][2])
        for _, _, values, number in rows:
            if list(values) != names:
                raise ValueError(
                    f"All lines of a list must have the values {', '.join(names)}. Received: "
                    f"{', '.join(values)} in line {number} of {path}"
                )
        if class_names is not None and len(class_names) != len(names):
            raise ValueError(
                f"`class_names` must name each of the {len(names)} values. Received: {class_names}"
            )
        found = np.array([list(values.values()) for _, _, values, _ in rows], np.float32)
        return tuple(class_names or names), found
    first_line = {}
    for _, _, labels, number in rows:
        for label in labels:
            first_line.setdefault(label, number)
    if not first_line:
        raise ValueError(f"A list must have labels. Received: {path} with none in any line")
    class_names, classes = _class_names(first_line, class_names, path)
    found = [[classes[label] for label in labels] for _, _, labels, _ in rows]
    if task == CLASSIFICATION:
        return class_names, [label for (label,) in found]
    return class_names, list_targets.multi_hot(found, len(class_names))
