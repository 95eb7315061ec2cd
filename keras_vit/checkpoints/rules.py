"""The engine: a format is a table of rows, and the engine applies it in both directions.

A row pairs a variable path of ours with a key of theirs and gives both shapes in symbols.  From
those follow what a file must hold, how an array is turned from one form to the other, and back:

    Row("block", "encoderblock_{i}/attention/query/kernel", "blocks.{i}.q.weight", "D k d", "k*d D")

says that our (D, k, d) kernel is their (k d, D) matrix.  A row is used once for each set of symbols
in its scope, so that one row serves all blocks, and a scope without any leaves its rows out.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from keras_vit.checkpoints.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Row:
    """One array.

    Args:
        scope: which sets of symbols the row is used with.
        ours: variable path of the model, with `{symbol}` in it.
        theirs: key in the file, with `{symbol}` and the layout's `{placeholder}` in it.
        shape: our shape: symbols, and ones that stand for nothing, separated by spaces.
        file_shape: theirs: the same symbols in any order, `*` where several share an axis, ones,
            and the layout's placeholders; None if it is the same.
    """

    scope: str
    ours: str
    theirs: str
    shape: str
    file_shape: str | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a file's arrays say of the model: enough to build it.

    Attributes:
        family: `"vit"`, `"hybrid"` or `"bit"`.
        fields: the configuration's fields that differ from file to file.
        num_positions: rows of the position embedding; 0 where there is none.
    """

    family: str
    fields: Mapping
    num_positions: int = 0


@dataclasses.dataclass(frozen=True)
class Format:
    """A checkpoint format as data.

    Attributes:
        name: of the format.
        signature: key (below a prefix) that only files of this format have.
        prefixes: what may stand before every key; the first is what is written.
        layouts: layout name -> placeholder -> text; the first is what is written by default.
        rows: the table.
        dropped: patterns of keys that are known and not used.
        architecture: reads an `Architecture` off a `FileView`.
        scopes: scope -> list of sets of symbols, for an `Architecture`.
        unsupported: what of an `Architecture` the format cannot hold, as a list of reasons.
    """

    name: str
    signature: str
    prefixes: tuple[str, ...]
    layouts: Mapping[str, Mapping[str, str]]
    rows: tuple[Row, ...]
    dropped: tuple[str, ...]
    architecture: Callable
    scopes: Callable
    unsupported: Callable


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row with its symbols filled in: one variable of ours and one array of theirs."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    axes: tuple[tuple[str, int], ...]
    file_axes: tuple[str, ...]

    def from_file(self, array):
        """Their array in our shape."""
        sizes = dict(self.axes)
        array = array.reshape([sizes[name] for name in self.file_axes])
        order = [self.file_axes.index(name) for name, _ in self.axes]
        return array.transpose(order).reshape(self.shape)

    def to_file(self, array):
        """Our array in their shape."""
        names = [name for name, _ in self.axes]
        array = array.reshape([size for _, size in self.axes])
        order = [names.index(name) for name in self.file_axes]
        return np.ascontiguousarray(array.transpose(order)).reshape(self.file_shape)


class FileView:
    """A file's array shapes under one prefix, by keys as the layout spells them."""

    def __init__(self, shapes, prefix, layout):
        self.layout = layout
        self.shapes = {
            key.removeprefix(prefix): shape
            for key, shape in shapes.items()
            if key.startswith(prefix)
        }

    def shape(self, key):
        """The shape of an array, or None if the file lacks it; `{placeholders}` are filled in."""
        return self.shapes.get(_fill(key, self.layout))

    def indices(self, pattern):
        """The numbers that stand at `{}` in the keys that start with `pattern`, sorted.

        `indices("Transformer/encoderblock_{}/")` tells which blocks there are.
        """
        before, after = pattern.split("{}")
        expression = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
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


def _fill(template, symbols):
    return re.sub(
        r"\{(\w+)\}",
        lambda match: str(symbols.get(match.group(1), match.group(0))),
        template,
    )


def _axes(shape, symbols):
    """("D", "k*d") with sizes -> the symbols in order, and the size of each axis."""
    names, sizes = [], []
    for axis in shape.split():
        parts = [part for part in axis.split("*") if part != "1"]
        names += parts
        sizes.append(math.prod(symbols[part] for part in parts))
    return tuple(names), tuple(sizes)


def entries(format_, architecture, layout=None):
    """The table filled in for one architecture and layout (None: the first): `Entry` objects."""
    placeholders = format_.layouts[layout or next(iter(format_.layouts))]
    scopes = format_.scopes(architecture)
    filled = []
    for row in format_.rows:
        for symbols in scopes[row.scope]:
            names, shape = _axes(row.shape, symbols)
            file_shape = _fill(row.file_shape or row.shape, placeholders)
            file_names, file_sizes = _axes(file_shape, symbols)
            filled.append(
                Entry(
                    ours=_fill(row.ours, symbols),
                    theirs=_fill(_fill(row.theirs, symbols), placeholders),
                    shape=shape,
                    file_shape=file_sizes,
                    axes=tuple((name, symbols[name]) for name in names),
                    file_axes=file_names,
                )
            )
    return filled


@dataclasses.dataclass(frozen=True)
class Match:
    """A file understood: its format, prefix, layout, architecture, and where each array is."""

    format_: Format
    prefix: str
    layout: str
    architecture: Architecture
    entries: list[Entry]


def match_file(path, format_, shapes):
    """Understands a file by its arrays' names and shapes alone.

    Args:
        path: for error messages.
        format_: `Format`.
        shapes: key -> shape, of the whole file.

    Returns:
        `Match` of the layout that fits without any difference.

    Raises:
        CheckpointError: if there is none; lists every difference to the one that fits best.
    """
    prefixes = [p for p in format_.prefixes if p + format_.signature in shapes]
    if len(prefixes) != 1:
        found = " and ".join(repr(p) for p in prefixes) or "nowhere"
        raise CheckpointError(
            path,
            f"a {format_.name} file has {format_.signature!r} at one place, this one has it under "
            f"{found}",
        )
    prefix = prefixes[0]
    best = fallback = None
    for layout in format_.layouts:
        view = FileView(shapes, prefix, format_.layouts[layout])
        architecture = format_.architecture(view)
        if isinstance(architecture, str):
            fallback = architecture
            continue
        filled = entries(format_, architecture, layout)
        problems = _differences(format_, filled, view, shapes, prefix)
        if not problems:
            return Match(format_, prefix, layout, architecture, filled)
        if best is None or len(problems) < len(best):
            best = problems
    raise CheckpointError(path, best or fallback)


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


def arrays_for_file(path, format_, architecture, layout, arrays):
    """Our arrays under their keys and in their shapes.

    Args:
        path: for error messages.
        format_: `Format` to write.
        architecture: `Architecture` of the model.
        layout: name of a layout of the format; None for its first.
        arrays: our variable path -> array; emptied as the result is made.

    Returns:
        key -> float32 array, in the table's order.

    Raises:
        CheckpointError: if the format cannot hold this model, or a variable has no row.
    """
    problems = format_.unsupported(architecture)
    if problems:
        raise CheckpointError(path, [f"{format_.name} cannot hold {p}" for p in problems])
    filled = entries(format_, architecture, layout)
    ours = {entry.ours for entry in filled}
    problems = [f"- {name} is missing in the model" for name in sorted(ours - set(arrays))]
    problems += [f"+ {name} has no place in the file" for name in sorted(set(arrays) - ours)]
    if problems:
        raise CheckpointError(path, problems)
    prefix = format_.prefixes[0]
    return {
        prefix + e.theirs: e.to_file(np.asarray(arrays.pop(e.ours), np.float32)) for e in filled
    }
