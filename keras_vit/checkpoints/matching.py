"""The engine: applies a format's table to a file, and to a model, in the other direction."""

import collections
import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from keras_vit.checkpoints.format import Architecture, Entry, Format, entries, fill
from keras_vit.errors import CheckpointError


class FileView:
    """A file's array shapes under one prefix, by keys as the layout spells them.

    Attributes:
        layout: placeholder -> text.
        shapes: key -> shape.
        facts: what a `config.json` beside the file says; empty without one.
        image_size: (height, width) in pixels that the caller asks for, or None.
    """

    def __init__(self, shapes, prefix, layout, facts=None, image_size=None):
        self.layout = layout
        self.facts = facts or {}
        self.image_size = image_size
        self.shapes = {
            key.removeprefix(prefix): shape
            for key, shape in shapes.items()
            if key.startswith(prefix)
        }

    def shape(self, key):
        """The shape of an array, or None if the file lacks it; `{placeholders}` are filled in."""
        return self.shapes.get(fill(key, self.layout))

    def indices(self, pattern):
        """The numbers that stand at `{}` in the keys that start with `pattern`, sorted.

        `indices("Transformer/encoderblock_{}/")` tells which blocks there are.
        """
        before, after = pattern.split("{}")
        expression = re.compile(re.escape(before) + r"([0-9]{1,9})" + re.escape(after))
        found = (expression.match(key) for key in self.shapes)
        return sorted({int(match.group(1)) for match in found if match})

    def vote(self, *evidence):
        """The size that most arrays agree on.

        Args:
            *evidence: (key, axis) pairs; arrays that the file lacks, or whose rank is too small,
                have no vote.

        Returns:
            The most frequent size, the earliest among equals, or None if no array votes.
        """
        votes = collections.Counter()
        for key, axis in evidence:
            shape = self.shape(key)
            if shape is not None and -len(shape) <= axis < len(shape):
                votes[shape[axis]] += 1
        return votes.most_common(1)[0][0] if votes else None


@dataclasses.dataclass(frozen=True)
class Match:
    """A file understood: its format, prefix, layout, architecture, and where each array is."""

    format_: Format
    prefix: str
    layout: str
    architecture: Architecture
    entries: list[Entry]
    spelling: Mapping[str, str]

    @property
    def paths(self):
        """Our variable paths."""
        return frozenset(entry.ours for entry in self.entries)

    def arrays(self, paths, read):
        """The model's arrays.

        Args:
            paths: which of our variable paths.
            read: function of a list of keys that gives key -> array.

        Returns:
            Our variable path -> array in our shape.
        """
        wanted = [entry for entry in self.entries if entry.ours in paths]
        keys = {entry.theirs: self.spelling[self.prefix + entry.theirs] for entry in wanted}
        stored = read(sorted(set(keys.values())))
        arrays = {entry.ours: entry.from_file(stored[keys[entry.theirs]]) for entry in wanted}
        placeholders = self.format_.layouts[self.layout]
        return self.format_.to_model(arrays, self.architecture, placeholders)


def match_file(path, format_, shapes, facts=None, image_size=None):
    """Understands a file by its arrays' names and shapes, and what its `config.json` says.

    Args:
        path: for error messages.
        format_: `Format`.
        shapes: key -> shape, of the whole file.
        facts: what the `config.json` beside the file says, if there is one.
        image_size: (height, width) in pixels that the caller asks for; it decides what the arrays
            leave open.

    Returns:
        `Match` of the layout that fits without any difference.

    Raises:
        CheckpointError: if there is none; lists every difference to the one that fits best.
    """
    spelling = _spelling(path, format_, shapes)
    shapes = {key: shapes[stored] for key, stored in spelling.items()}
    prefixes = format_.found_under(shapes)
    if len(prefixes) != 1:
        found = " and ".join(repr(p) for p in prefixes) or "nowhere"
        marks = ", or ".join(map(str, format_.signatures))
        raise CheckpointError(
            path,
            f"a {format_.name} file has {marks} at one place, this one has it under {found}",
        )
    prefix = prefixes[0]
    best = fallback = None
    for layout in format_.layouts:
        view = FileView(shapes, prefix, format_.layouts[layout], facts, image_size)
        architecture = format_.architecture(view)
        if architecture is None or isinstance(architecture, str):
            fallback = fallback or architecture
            continue
        filled = entries(format_, architecture, layout)
        problems = _differences(format_, filled, view, shapes, prefix)
        if not problems:
            return Match(format_, prefix, layout, architecture, filled, spelling)
        if best is None or len(problems) < len(best):
            best = problems
    raise CheckpointError(
        path, best or fallback or f"its arrays are spelled as those of no {format_.name} file"
    )


def _spelling(path, format_, keys):
    """Key as the table spells it -> key as the file does."""
    spelling, problems = {}, []
    for stored in keys:
        key = format_.respell(stored)
        if key in spelling:
            problems.append(f"{stored} is the same array as {spelling[key]}")
        spelling[key] = stored
    if problems:
        raise CheckpointError(path, problems)
    return spelling


def _differences(format_, filled, view, shapes, prefix):
    expected = {entry.theirs: entry.file_shape for entry in filled}
    known = [re.compile(pattern) for pattern in format_.dropped]
    problems = [
        f"- {key} {shape} is missing"
        for key, shape in sorted(expected.items())
        if key not in view.shapes
    ]
    problems += [
        f"+ {key} {shape} is not known"
        for key, shape in sorted(view.shapes.items())
        if key not in expected and not any(p.match(key) for p in known)
    ]
    problems += [
        f"+ {key} {shape} is outside {prefix!r} and not known"
        for key, shape in sorted(shapes.items())
        if not key.startswith(prefix) and not any(p.match(key) for p in known)
    ]
    problems += [
        f"{key} has the shape {view.shapes[key]}, expected {shape}"
        for key, shape in sorted(expected.items())
        if key in view.shapes and view.shapes[key] != shape
    ]
    return problems


def written_entries(path, format_, architecture, layout=None, prefix=None):
    """(what stands before every key, the table filled in) of a model that is to be written.

    Raises:
        CheckpointError: if the format cannot hold this model; lists all reasons.
    """
    problems = format_.cannot_hold(architecture)
    if problems:
        raise CheckpointError(path, [f"{format_.name} cannot hold {p}" for p in problems])
    prefix = prefix if format_.keeps_prefix and prefix is not None else format_.prefixes[0]
    return prefix, entries(format_, architecture, layout)


def arrays_for_file(path, format_, architecture, arrays, *, layout=None, prefix=None):
    """Our arrays under their keys and in their shapes.

    Args:
        path: for error messages.
        format_: `Format` to write.
        architecture: `Architecture` of the model.
        arrays: our variable path -> array; emptied as the result is made.
        layout: name of a layout of the format; None for its first.
        prefix: before every key, where the format keeps it; None for its first.

    Returns:
        key -> float32 array, in the table's order.

    Raises:
        CheckpointError: if the format cannot hold this model, or a variable has no row.
    """
    layout = layout or next(iter(format_.layouts))
    prefix, filled = written_entries(path, format_, architecture, layout, prefix)
    ours = {entry.ours for entry in filled}
    for name in format_.left_out:
        if name not in ours:
            arrays.pop(name, None)
    problems = [f"- {name} is missing in the model" for name in sorted(ours - set(arrays))]
    problems += [f"+ {name} has no place in the file" for name in sorted(set(arrays) - ours)]
    if problems:
        raise CheckpointError(path, problems)
    arrays = format_.to_table(arrays, architecture, format_.layouts[layout])
    written = {}
    for entry in filled:
        key = prefix + entry.theirs
        array = np.asarray(arrays.pop(entry.ours), np.float32)
        if entry.is_theirs:
            written[key] = array.reshape(entry.file_shape)
            continue
        if key not in written:
            written[key] = np.empty(entry.file_shape, np.float32)
        entry.to_file(array, written[key])
    return written
