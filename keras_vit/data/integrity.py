"""Every bad entry of a data set in one pass, and a data set without them.

Skipping is decided before training starts: what is left is a data set like any other, so that the
order of its examples is still a function of (seed, epoch, index), a resumed run leaves out the same
ones, and no step is ever short of an example.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from keras_vit.data.catalog import resolve
from keras_vit.data.catalog.folders import SPLITS
from keras_vit.data.catalog.resolve import DatasetInfo
from keras_vit.data.images import decode
from keras_vit.data.images.image_problems import MAX_FILE_BYTES
from keras_vit.data.sources.protocol import digest
from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.errors import BadDataError

CHECKED = "checked.json"
_CHUNK = 256  # examples that wait for a free thread


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadEntry:
    """What is wrong at one place of a data set.

    Args:
        split: the split's name, or None where the entry belongs to none.
        path: of the file or folder, or None for a record.
        index: the example's place in its split, or None for what is no example.
        reason: one line.
        is_structure: whether it concerns the data set's layout and not one example, so that it
            cannot be left out.
    """

    split: str | None
    path: str | None
    index: int | None
    reason: str
    is_structure: bool = False

    def __str__(self):
        if self.path is not None and self.path in self.reason:
            return self.reason
        return f"{self.path or f'{self.split} example {self.index}'}: {self.reason}"

    def as_json(self):
        """The line of `skipped.jsonl`."""
        fields = dataclasses.asdict(self)
        del fields["is_structure"]
        return json.dumps(fields, ensure_ascii=False)


def _image_problem(data, **limits):
    """Why encoded bytes are not decoded, or None."""
    problem = decode.try_decode_image(data, **limits)[1].numpy().decode()
    return (decode.explain_image_problem(data, **limits) or problem) if problem else None


def _file_problem(path, max_pixels):
    limits = {"max_pixels": max_pixels, "max_bytes": MAX_FILE_BYTES}
    try:
        with open(path, "rb") as file:
            data = file.read(limits["max_bytes"] + 1)
    except OSError as error:
        return error.strerror
    return _image_problem(data, **limits)


def _label_problem(label, num_classes):
    label = np.asarray(label)
    if label.dtype.kind == "f":  # each class's share
        return None if label.shape == (num_classes,) else f"label {label.shape} is not (C,)"
    lowest = 0 if label.ndim == 0 else -1
    if np.all((label >= lowest) & (label < num_classes)):
        return None
    return f"label {label.tolist()} is not in [0, {num_classes})"


def _record_problem(image, label, num_classes, max_pixels):
    problem = _label_problem(label, num_classes)
    if problem is None and isinstance(image, bytes):
        problem = _image_problem(image, max_pixels=max_pixels)
    return problem


def _in_threads(function, items):
    """The results of `function(*item)` in order; few items wait at a time."""
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(items, _CHUNK)):
            yield from pool.map(lambda item: function(*item), chunk)


def bad_examples(info, split, progress=None):
    """Decodes every image of a split.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        progress: a function that is called after each example.

    Yields:
        A `BadEntry` for each example that cannot be read, is not decoded, or has a label that is no
        class, in order.
    """
    paths = info.source.paths(split)
    records_end = []
    if paths is not None:
        problems = _in_threads(_file_problem, ((path, info.max_pixels) for path in paths))
    else:
        items = _records(info, split, records_end)
        problems = _in_threads(_record_problem, items)
    index = -1
    for index, problem in enumerate(problems):
        if problem is not None:
            path = paths[index] if paths is not None else None
            yield BadEntry(split=split, path=path, index=index, reason=problem)
        if progress is not None:
            progress()
    for reason in records_end:
        entry = BadEntry(split=split, path=None, index=index + 1, reason=reason, is_structure=True)
        yield entry


def _records(info, split, end):
    try:
        for image, label, *_ in info.source.stream(split).as_numpy_iterator():
            yield image, label, info.num_classes, info.max_pixels
    except tf.errors.OpError as error:
        # Behind a damaged record there is no next one.
        first_line = re.sub(r"\{\{.*?\}\}\s*", "", str(error.message)).partition("\n")[0]
        end.append(f"the records cannot be read from here on: {first_line}")
        if isinstance(error, tf.errors.DataLossError):
            end.extend(info.source.find_damage(split))  # the error does not say in which file


def _listed(dataset, data_dir, download, max_pixels):
    """`(info, entries)`: what can be listed, and what is wrong with the layout."""
    if isinstance(dataset, DatasetInfo):
        return resolve.resolve(dataset, max_pixels=max_pixels), []
    entries = []

    def refuse(path, message, *, is_structure=False):
        root = os.path.realpath(os.path.expanduser(dataset))
        split = os.path.relpath(path, root).split(os.sep)[0]
        entry = BadEntry(
            split=split if split in SPLITS else None,
            path=path,
            index=None,
            reason=" ".join(message.split()),
            is_structure=is_structure,
        )
        entries.append(entry)

    options = {"download": download, "refuse": refuse, "max_pixels": max_pixels}
    return resolve.resolve(dataset, data_dir, **options), entries


def _decoded(info, splits, progress):
    """The `BadEntry`s among the examples of some splits."""
    total = sum(info.num_examples(split) for split in splits)
    with progress(total) if progress is not None else contextlib.nullcontext() as advance:
        return [entry for split in splits for entry in bad_examples(info, split, advance)]


def check(dataset, data_dir=None, *, download=False, splits=None, progress=None, max_pixels=None):
    """Lists every bad entry of a data set, of a folder those of its walk as well.

    Args:
        dataset: what `resolve` takes, or a `DatasetInfo`.
        data_dir: as in `resolve`.
        download: as in `resolve`.
        splits: the splits to check; None checks all.
        progress: a function of the number of examples, which returns a context manager of a
            function that is called after each; None shows nothing.
        max_pixels: as in `resolve`.

    Returns:
        `(info, entries)`: the `DatasetInfo` with whatever could be listed, and `BadEntry`s.

    Raises:
        ValueError, FileNotFoundError: as `resolve`, but for what is wrong within a folder.
    """
    info, entries = _listed(dataset, data_dir, download, max_pixels)
    return info, entries + _decoded(info, tuple(splits or info.split_sizes), progress)


def _fingerprint(info, splits):
    """Changes with any file that the splits are read from, and with the limits on images."""
    limits = (info.max_pixels, MAX_FILE_BYTES, decode.MAX_SCANS)
    return digest(limits, info.fingerprint(splits))


def _read_report(report, fingerprint):
    """The bad examples that an earlier pass over the same files found, or None."""
    checked = report.with_name(CHECKED)
    try:
        known = json.loads(checked.read_text(encoding="utf-8"))
        lines = report.read_bytes()
    except (OSError, ValueError):
        return None  # no earlier pass, or one that did not come to its end
    expected = {"files": fingerprint, "report": hashlib.sha256(lines).hexdigest()}
    if known != expected:
        return None
    entries = (BadEntry(**json.loads(line)) for line in lines.decode().splitlines())
    return [entry for entry in entries if entry.index is not None]


def _write_report(report, entries, fingerprint):
    lines = "".join(f"{entry.as_json()}\n" for entry in entries).encode()
    report.write_bytes(lines)
    if any(entry.is_structure for entry in entries):
        return  # to be mended: the next pass is a new one
    known = {"files": fingerprint, "report": hashlib.sha256(lines).hexdigest()}
    report.with_name(CHECKED).write_text(json.dumps(known) + "\n", encoding="utf-8")


def _without(info, entries):
    """The data set without the examples of `entries`."""
    excluded = collections.defaultdict(set)
    for entry in entries:
        if entry.index is not None:
            excluded[entry.split].add(entry.index)
    if not excluded:
        return info
    source = info.source.without(excluded)
    sizes = dict(info.split_sizes)
    for split in excluded:
        sizes[split] = source.num_examples(split)
        if info.source.paths(split) is not None and info.task == CLASSIFICATION:
            lost = set(info.source.labels(split)) - set(source.labels(split))
            if lost:
                raise BadDataError(
                    f"no image of class {info.class_names[min(lost)]!r} in {split!r} can be read"
                )
    return dataclasses.replace(info, source=source, split_sizes=sizes)


def resolve_without_bad(
    dataset,
    data_dir=None,
    *,
    download=False,
    splits=None,
    max_bad_fraction=0.0,
    report=None,
    progress=None,
    max_pixels=None,
):
    """As `resolve`, but leaves out what is bad, counted and listed, up to a limit.

    Every image of the splits is decoded once, also over several calls with the same `report`, as
    long as no file changes its size or time: a training that goes on need not wait again.

    Args:
        dataset: what `resolve` takes, or a `DatasetInfo`.
        data_dir: as in `resolve`.
        download: as in `resolve`.
        splits: the splits that will be used, or a function from the `DatasetInfo` to them; None
            stands for all.
        max_bad_fraction: the largest share of a split's entries that may be left out.
        report: path of a file, `skipped.jsonl`, that gets a line for each entry that is left out;
            `checked.json` beside it says of which files.
        progress: as in `check`.
        max_pixels: as in `resolve`.

    Returns:
        `(info, entries)`: the `DatasetInfo` of what is good, and the `BadEntry`s that are not.

    Raises:
        BadDataError: for a split with more bad entries, a class of a folder of which nothing is
            left, or a layout that is wrong.
        ValueError, FileNotFoundError: as `resolve`.
    """
    if not 0 <= max_bad_fraction < 1:
        raise ValueError(f"`max_bad_fraction` must be in [0, 1). Received: {max_bad_fraction}")
    info, listed = _listed(dataset, data_dir, download, max_pixels)
    splits = tuple((splits(info) if callable(splits) else splits) or info.split_sizes)
    if report is None:
        entries = listed + _decoded(info, splits, progress)
    else:
        report = pathlib.Path(report)
        fingerprint = _fingerprint(info, splits)
        found = _read_report(report, fingerprint)
        if found is None:
            found = _decoded(info, splits, progress)
        entries = listed + found
        _write_report(report, entries, fingerprint)
    where = "" if report is None else f"; all are in {report}"
    for entry in entries:
        if entry.is_structure:
            raise BadDataError(f"{entry}{where}")
    for split in info.split_sizes:
        bad = [entry for entry in entries if entry.split == split]
        num_listed = sum(entry.index is None for entry in bad)
        if len(bad) > max_bad_fraction * (info.num_examples(split) + num_listed):
            raise BadDataError(
                f"{len(bad)} of {info.num_examples(split) + num_listed} entries of "
                f"{info.name!r} {split!r} are bad and {max_bad_fraction:g} of them may be; the "
                f"first is {bad[0]}{where}"
            )
    return _without(info, entries), entries
