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
from keras_vit.data.sources.protocol import Source, digest, keep
from keras_vit.data.splits import TRAIN

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
    """

    splits: Mapping[str, FolderSplit]
    rule: str = ""

    def num_examples(self, split):
        """Returns the number of files."""
        return len(self.splits[split].paths)

    def labels(self, split):
        """Returns the labels, int64 (n,)."""
        return np.array(self.splits[split].labels, np.int64)

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
        stream = tf.data.Dataset.from_tensor_slices((paths, np.array(files.labels, np.int64)))
        return stream.map(lambda path, label: (tf.io.read_file(path), label))

    def without(self, excluded):
        """Returns the source without some files."""
        splits = dict(self.splits)
        for split, indices in excluded.items():
            files = splits[split]
            kept = np.flatnonzero(keep(len(files.paths), indices))
            splits[split] = FolderSplit(
                tuple(files.paths[k] for k in kept), tuple(files.labels[k] for k in kept)
            )
        return dataclasses.replace(self, splits=splits)

    def fingerprint(self, split):
        """Returns a digest of the names, labels, sizes and times of the files."""
        files = self.splits[split]
        root = os.path.commonpath(map(os.path.dirname, files.paths)) if files.paths else ""
        names = [os.path.relpath(path, root) for path in files.paths]
        return digest(names, files.labels, [file_version(path) for path in files.paths])


def _csv_rows(file, path):
    """Yields (line number, dict) of a CSV file with or without a header."""
    rows = csv.reader(file)
    columns = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            names = [cell.strip().lower() for cell in row]
            columns = names if {"path", "label"} <= set(names) else list(_COLUMNS)
            if columns is names:
                continue
        if len(row) > len(columns) or len(row) < 2:
            raise ValueError(
                f"A line of a list must be `path,label` or `path,label,split`. Received: {row} in "
                f"line {rows.line_num} of {path}; put text with commas into double quotes."
            )
        yield rows.line_num, dict(zip(columns, row, strict=False))


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
    """Returns (path of the image, label as text or integer, split) of a row."""
    image, label = row.get("path"), row.get("label")
    if not isinstance(image, str) or not image.strip():
        raise ValueError(
            f"A line of a list must name a file as `path`. Received: {image!r} in line {number} "
            f"of {path}"
        )
    if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
        raise ValueError(
            "A line of a list must have a class as `label`, a name or an integer. Received: "
            f"{label!r} in line {number} of {path}"
        )
    split = row.get("split") or TRAIN
    if not isinstance(split, str):
        raise ValueError(f"`split` must be text. Received: {split!r} in line {number} of {path}")
    return image.strip(), label.strip() if isinstance(label, str) else label, split.strip()


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

    Args:
        path: Path of the list, whose name ends in `.csv` or `.jsonl`.
        class_names: The classes in their order; None takes those of the list.

    Returns:
        `(class_names, source)`: a tuple of names and a `FileSource`.

    Raises:
        ValueError: for a line that is none of these, with its number.
        OSError: if the list cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    parse = _jsonl_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    rows, first_line = [], {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in parse(file, path):
                rows.append(_checked(row, number, path))
                first_line.setdefault(rows[-1][1], number)
    except UnicodeDecodeError as error:
        raise ValueError(f"A list must be UTF-8 text. Received: {path}: {error}") from None
    except csv.Error as error:
        raise ValueError(f"A list must be CSV. Received: {path}: {error}") from None
    if not rows:
        raise ValueError(f"A list must have lines `path,label`. Received: {path}, empty")
    class_names, classes = _class_names(first_line, class_names, path)
    paths, labels = collections.defaultdict(list), collections.defaultdict(list)
    for image, label, split in rows:
        paths[split].append(os.path.join(path.resolve().parent, os.path.expanduser(image)))
        labels[split].append(classes[label])
    splits = {split: FolderSplit(tuple(paths[split]), tuple(labels[split])) for split in paths}
    return class_names, FileSource(splits=splits)
