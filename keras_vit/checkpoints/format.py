"""Tables: what a checkpoint format is, as data, and the table filled in for one model.

A row pairs a variable path of ours with a key of theirs and gives both shapes in symbols.  From
those follow what a file must hold, how an array is turned from one form to the other, and back:

    Row("block", "encoderblock_{i}/attention/query/kernel", "blocks.{i}.q.weight", "D k d", "k*d D")

says that our (D, k, d) kernel is their (k d, D) matrix.  A row is used once for each set of symbols
in its scope, so that one row serves all blocks, and a scope without any leaves its rows out.

Several variables of ours may share one array of theirs: `"1@3*k*d D"` is the second of the three
parts that a fused (3 k d, D) matrix consists of, `"i@L D"` place i of an axis of length L on which
the blocks are stacked.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Row:
    """One array.

    Args:
        scope: which sets of symbols the row is used with; may be the layout's `{placeholder}`.
        ours: variable path of the model, with `{symbol}` in it.
        theirs: key in the file, with `{symbol}` and the layout's `{placeholder}` in it.
        shape: our shape: symbols, and ones that stand for nothing, separated by spaces.
        file_shape: theirs: the same symbols in any order, `*` where several share an axis, ones,
            `index@count` for one of several parts, and the layout's placeholders; None if it is
            the same.
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
        grid: (h, w) of the positions without the class token, where the file tells it.
        assumed: what of the fields the file does not tell, and is taken as it most often is.
        optional_parts: Fields that add a part which most models lack, with their values; most
            formats cannot hold them.
    """

    family: str
    fields: Mapping
    num_positions: int = 0
    grid: tuple[int, int] | None = None
    assumed: tuple[str, ...] = ()
    optional_parts: Mapping = dataclasses.field(default_factory=dict)

    @property
    def num_leading_positions(self):
        """How many rows of the positions come before those of the patches."""
        fields = self.fields
        registers = fields.get("num_registers", 0) if fields.get("register_positions") else 0
        tokens = bool(fields.get("class_token")) + bool(fields.get("distillation_token"))
        return tokens + registers


@dataclasses.dataclass(frozen=True)
class Signature:
    """What tells a format: all `present` keys are in the file (below a prefix), no `absent` one.

    Of any two formats, no file has the marks of both.
    """

    present: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def __str__(self):
        text = " and ".join(map(repr, self.present))
        return f"{text} without {' or '.join(map(repr, self.absent))}" if self.absent else text

    def fits(self, keys, prefix):
        """Whether a file with these keys has the mark below `prefix`."""
        present = all(prefix + key in keys for key in self.present)
        return present and not any(prefix + key in keys for key in self.absent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What a file says of a model beside its architecture, where it says it.

    Attributes:
        class_names: a name for each class, or None.
        preprocessing: the arguments of `Preprocessing`, or None.
    """

    class_names: tuple[str, ...] | None = None
    preprocessing: Mapping | None = None


def _unchanged(arrays, _architecture, _layout):
    return arrays


def _nothing_known(_facts, _architecture):
    return About()


@dataclasses.dataclass(frozen=True)
class Format:
    """A checkpoint format as data.

    Attributes:
        name: of the format.
        families: of models that it can hold.
        signatures: marks that only files of this format have; one of them is enough.
        prefixes: what may stand before every key; the first is what is written.
        layouts: layout name -> placeholder -> text; the first is what is written by default.
        rows: the table.
        dropped: patterns of keys that are known and not used.
        architecture: reads an `Architecture` off a `FileView`; a sentence where the file lacks what
            that takes, None where it is not spelled as the view's layout says.
        scopes: scope -> list of sets of symbols, for an `Architecture`.
        unsupported: what of an `Architecture` of its families the format cannot hold, as a list of
            reasons.
        to_model: what no row can say: (path -> array as the table gives them, architecture,
            placeholders) -> path -> array of the model.
        to_table: its inverse.
        keeps_prefix: whether a model that came from under a prefix is written under it again.
        respelled: (pattern, replacement) pairs that bring keys to the table's spelling.
        side_files: (architecture, placeholders, `About`) -> the JSON files that belong beside the
            arrays, name -> content, `config.json` among them; None where the arrays tell all.
        about: (facts of a container, architecture) -> `About`; ValueError where they contradict it.
        layout_for: (name of the file to write, architecture, layout that the model came in or None)
            -> name of the layout; None leaves the choice to the model's origin.
        folder_file: name of the file with the arrays in a folder of the format; None where a file
            is all.
        optional_parts: Fields of `Architecture.optional_parts` that the format can hold.
        resize_rule: How the format's library brings positions to another grid: a name of
            `resize_rules.RULES`, or a function of (architecture, name of the layout) that gives it.
        constants: Family -> field -> the one value that the format's code computes with, where it
            has one.
        left_out: Variables that nothing uses and that are not written where no row has them.
    """

    name: str
    families: tuple[str, ...]
    signatures: tuple[Signature, ...]
    prefixes: tuple[str, ...]
    layouts: Mapping[str, Mapping[str, str]]
    rows: tuple[Row, ...]
    dropped: tuple[str, ...]
    architecture: Callable
    scopes: Callable
    unsupported: Callable
    to_model: Callable = _unchanged
    to_table: Callable = _unchanged
    keeps_prefix: bool = False
    respelled: tuple[tuple[str, str], ...] = ()
    side_files: Callable | None = None
    about: Callable = _nothing_known
    layout_for: Callable | None = None
    folder_file: str | None = None
    optional_parts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    resize_rule: str | Callable = "aligned"
    constants: Mapping = dataclasses.field(default_factory=dict)

    def found_under(self, keys):
        """The prefixes under which a file with these keys has a mark of the format."""
        return [p for p in self.prefixes if any(s.fits(keys, p) for s in self.signatures)]

    def resize_rule_of(self, architecture, layout):
        """The name of the rule by which a file's own library resizes its positions."""
        rule = self.resize_rule
        return rule if isinstance(rule, str) else rule(architecture, layout)

    def cannot_hold(self, architecture):
        """What of a model the format cannot hold: a list of reasons."""
        if architecture.family not in self.families:
            return [f"a model of the family {architecture.family!r}"]
        parts = architecture.optional_parts.items()
        missing = [
            f"`{name}` {value!r}" for name, value in parts if name not in self.optional_parts
        ]
        return missing + self.unsupported(architecture)

    def respell(self, key):
        """A key as the table spells it."""
        for pattern, replacement in self.respelled:
            key = re.sub(pattern, replacement, key)
        return key


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row with its symbols filled in: one variable of ours, and an array of theirs or a part.

    Attributes:
        ours: variable path.
        theirs: key.
        shape: of our variable.
        file_shape: of their array.
        sizes: of the symbols that our shape consists of, in order.
        file_sizes: of the symbols and parts that their shape consists of.
        places: for each of `file_sizes`: a slice, or the index of our part.
        order: the axes of `sizes` in their order, found in what is left of the file's.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    sizes: tuple[int, ...]
    file_sizes: tuple[int, ...]
    places: tuple
    order: tuple[int, ...]

    @property
    def is_theirs(self):
        """Whether our array is all of theirs, with the axes in the same order."""
        in_order = self.order == tuple(range(len(self.order)))
        return in_order and len(self.order) == len(self.places)

    def _ours_within(self, array):
        """A view of their array that has our symbols as its axes."""
        return array.reshape(self.file_sizes)[self.places].transpose(self.order)

    def from_file(self, array):
        """Our array in our shape, from theirs."""
        return self._ours_within(array).reshape(self.shape)

    def to_file(self, array, target):
        """Puts our array where it belongs in theirs, which is contiguous."""
        self._ours_within(target)[...] = array.reshape(self.sizes)


def fill(template, symbols):
    return re.sub(
        r"\{(\w+)\}",
        lambda match: str(symbols.get(match.group(1), match.group(0))),
        template,
    )


def _axes(shape, symbols):
    """("D", "k*d") with sizes -> (symbols in order, the size of each, the size of each axis).

    A part (`"1@3"`) stands among the symbols as its index and has the count as its size.
    """
    names, sizes, shape_sizes = [], [], []
    for axis in shape.split():
        parts = [part for part in axis.split("*") if part != "1"]
        axis_sizes = []
        for part in parts:
            index, _, count = part.rpartition("@")
            names.append(_number(index, symbols) if index else part)
            axis_sizes.append(_number(count, symbols))
        sizes += axis_sizes
        shape_sizes.append(math.prod(axis_sizes))
    return names, tuple(sizes), tuple(shape_sizes)


def _number(text, symbols):
    return int(text) if text.isdigit() else symbols[text]


def entries(format_, architecture, layout=None):
    """The table filled in for one architecture and layout (None: the first): `Entry` objects."""
    placeholders = format_.layouts[layout or next(iter(format_.layouts))]
    scopes = format_.scopes(architecture)
    return [
        _entry(row, placeholders, symbols)
        for row in format_.rows
        for symbols in scopes[fill(row.scope, placeholders)]
    ]


def _entry(row, placeholders, symbols):
    ours = fill(row.shape, placeholders)
    names, sizes, shape = _axes(ours, symbols)
    file_names, file_sizes, file_shape = _axes(
        fill(row.file_shape or row.shape, placeholders), symbols
    )
    kept = [name for name in file_names if isinstance(name, str)]
    return Entry(
        ours=fill(row.ours, symbols),
        theirs=fill(fill(row.theirs, placeholders), symbols),
        shape=shape,
        file_shape=file_shape,
        sizes=sizes,
        file_sizes=file_sizes,
        places=tuple(slice(None) if isinstance(n, str) else n for n in file_names),
        order=tuple(kept.index(name) for name in names),
    )
