"""The 52,268 AugReg files: what a file name says, and the official table of them.

Source: "How to train your ViT?", arXiv:2106.10270, and the index.csv beside its files.  A name is

    B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0
    <the same>--imagenet2012-steps_20k-lr_0.03-res_384

for a pre-trained and for a fine-tuned file.
"""

import csv
import dataclasses
import math
import re
import sys

from keras_vit.checkpoints.download import fetch
from keras_vit.names import close_names

INDEX_URL = "gs://vit_models/augreg/index.csv"

# The first part of a file name -> our model.
ARCHITECTURES = {
    "Ti_16": "ViT-Ti/16",
    "S_32": "ViT-S/32",
    "S_16": "ViT-S/16",
    "B_32": "ViT-B/32",
    "B_16": "ViT-B/16",
    "B_8": "ViT-B/8",
    "L_16": "ViT-L/16",
    "R_Ti_16": "R+ViT-Ti/16",
    "R26_S_32": "R26+ViT-S/32",
    "R50_L_32": "R50+ViT-L/32",
}

_AUGMENTATIONS = ("none", "light0", "light1", "medium1", "medium2", "strong1", "strong2")
# In the order of the name: the column of index.csv that the part fills, and its allowed spellings.
_UPSTREAM_PARTS = (
    ("name", tuple(ARCHITECTURES)),
    ("ds", ("i1k", "i21k")),
    ("epochs", ("300ep", "30ep")),
    ("lr", ("lr_0.001",)),
    ("aug", tuple(f"aug_{name}" for name in _AUGMENTATIONS)),
    ("wd", ("wd_0.03", "wd_0.1")),
    ("do", ("do_0.0", "do_0.1")),
    ("sd", ("sd_0.0", "sd_0.1")),
)
_ADAPT_PARTS = (
    ("adapt_ds", ("imagenet2012", "cifar100", "oxford_iiit_pet", "kitti", "resisc45")),
    ("adapt_steps", ("steps_0k", "steps_2k", "steps_10k", "steps_20k")),
    ("adapt_lr", None),
    ("adapt_resolution", ("res_224", "res_384")),
)
# "0k" and "2k" are rounded down in the names.
_STEPS = {"steps_0k": 500, "steps_2k": 2_500, "steps_10k": 10_000, "steps_20k": 20_000}


# `B_16`, `B_16--imagenet2012-res_384`, `<full pre-trained name>--imagenet2012-res_384`.
_CHOICE = re.compile(
    rf"((?:{'|'.join(ARCHITECTURES)})(?:-(?!-)[^-]+)*)"
    rf"(?:--({'|'.join(_ADAPT_PARTS[0][1])})-res_(224|384))?"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugRegName:
    """What the name of an AugReg file says; the fields are called as the columns of index.csv.

    `name` is the first part (`"R26_S_32"`; the index writes `"R26+S/32"`), `ds` is `"i1k"` or
    `"i21k"` (the index writes `"i21k_30"` for i21k with 30 epochs), `adapt_steps` the true number.
    The `adapt_` fields are None for a file that was pre-trained only.
    """

    name: str
    ds: str
    epochs: int
    lr: float
    aug: str
    wd: float
    do: float
    sd: float
    adapt_ds: str | None = None
    adapt_steps: int | None = None
    adapt_lr: float | None = None
    adapt_resolution: int | None = None


def parse_stem(stem):
    """The `AugRegName` of a file name without folder and `.npz`.

    Raises:
        ValueError: for a name that is not formed by the rule; the message says which part is not.

    >>> parse_stem("S_16-i1k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0").wd
    0.1
    """
    upstream, dashes, adapt = stem.partition("--")
    parts = _split(stem, upstream, _UPSTREAM_PARTS)
    if dashes:
        parts |= _split(stem, adapt, _ADAPT_PARTS)
    if (parts["ds"], parts["epochs"]) == ("i1k", "30ep"):
        raise ValueError(f"AugReg name: `epochs` of i1k is always 300ep. Received: {stem!r}")
    values = {}
    for column, text in parts.items():
        value = text.removesuffix("ep").rpartition("_")[2]
        if column == "adapt_steps":
            values[column] = _STEPS[text]
        elif column in ("name", "ds", "adapt_ds"):
            values[column] = text
        else:
            values[column] = _COLUMNS[column](value)
    return AugRegName(**values)


def _split(stem, text, rule):
    found = text.split("-")
    if len(found) != len(rule):
        raise ValueError(
            f"AugReg name: expected {len(rule)} parts ({', '.join(c for c, _ in rule)}) joined by "
            f"`-`, found {len(found)} in {text!r}. Received: {stem!r}"
        )
    for (column, allowed), part in zip(rule, found, strict=True):
        if allowed is None:
            fits, wanted = re.fullmatch(r"lr_0\.\d+", part), "like lr_0.03"
        else:
            fits, wanted = part in allowed, f"one of {', '.join(allowed)}"
        if not fits:
            raise ValueError(
                f"AugReg name: `{column}` must be {wanted}, found {part!r}. Received: {stem!r}"
            )
    return {column: part for (column, _), part in zip(rule, found, strict=True)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AugRegRow:
    """One fine-tuned file of the index; empty numbers are None.

    `filename` and `adapt_filename` are the pre-trained and the fine-tuned file, without `.npz`;
    `infer_samples_per_sec` was measured on a V100 with timm.
    """

    name: str
    ds: str
    epochs: int
    lr: float
    aug: str
    wd: float
    do: float
    sd: float
    best_val: float | None
    final_val: float | None
    final_test: float | None
    adapt_ds: str
    adapt_lr: float | None
    adapt_steps: int | None
    adapt_resolution: int | None
    adapt_final_val: float | None
    adapt_final_test: float | None
    params: int | None
    infer_samples_per_sec: float | None
    filename: str
    adapt_filename: str


def _integer(text):
    value = float(text)
    if not value.is_integer():
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def _read_as(annotation):
    return next(read for t, read in _READERS.items() if annotation in (t, t | None))


_READERS = {str: sys.intern, int: _integer, float: float}
_COLUMNS = {field.name: _read_as(field.type) for field in dataclasses.fields(AugRegRow)}
_OPTIONAL = frozenset(f.name for f in dataclasses.fields(AugRegRow) if f.type not in _READERS)


class AugRegIndex:
    """An immutable table: a sequence of `AugRegRow` with `filter`."""

    columns = tuple(_COLUMNS)

    def __init__(self, rows):
        self._rows = tuple(rows)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, position):
        return self._rows[position]

    def __repr__(self):
        return f"AugRegIndex({len(self)} rows)"

    def filter(self, **values):
        """The rows whose columns have the given values.

        Args:
            **values: `column=value`, or `column=(value, ...)` for any of several.

        Returns:
            An `AugRegIndex`, in the same order.

        Raises:
            ValueError: for an unknown column.
            TypeError: for a value that the column cannot have.
        """
        wanted = {}
        for column, value in values.items():
            if column not in _COLUMNS:
                raise ValueError(_unknown("column", column, self.columns))
            options = value if isinstance(value, tuple | list | set | frozenset) else (value,)
            is_text = _COLUMNS[column] is sys.intern
            for option in options:
                if isinstance(option, str) != is_text and option is not None:
                    kind = "text" if is_text else "numbers"
                    raise TypeError(f"Column `{column}` holds {kind}. Received: {option!r}")
            wanted[column] = frozenset(options)
        return AugRegIndex(
            row for row in self if all(getattr(row, c) in options for c, options in wanted.items())
        )

    def best_upstream(self, model):
        """The pre-trained file that the official loader takes for a bare model name.

        Among the rows with `ds == "i21k"` (300 epochs) it is the file with the highest `final_val`.

        Args:
            model: the first part of the file names, such as `"R26_S_32"`.

        Returns:
            File name without `.npz`; `"augreg/" + name` is its name in the catalogue.

        Raises:
            ValueError: if the index has no such model.
        """
        rows = [row for row in self.filter(ds="i21k") if row.final_val is not None]
        models = {row.filename.split("-")[0] for row in rows}
        if model not in models:
            raise ValueError(_unknown("AugReg model", model, sorted(models)))
        rows = [row for row in rows if row.filename.split("-")[0] == model]
        return max(rows, key=lambda row: row.final_val).filename

    def best_finetuned(self, upstream, adapt_ds="imagenet2012", adapt_resolution=384):
        """The fine-tuning of a pre-trained file with the highest `adapt_final_test`.

        That is how the official README's table chooses learning rate and number of steps, which
        differ from file to file.

        Args:
            upstream: name of the pre-trained file without `.npz`, or a bare model name, for
                `best_upstream` of it.
            adapt_ds: the data set that it was fine-tuned on.
            adapt_resolution: side of the images in pixels.

        Returns:
            File name without `.npz`.

        Raises:
            ValueError: if the index has no such file; names what it has.
        """
        if "-" not in upstream:
            upstream = self.best_upstream(upstream)
        rows = self.filter(filename=upstream)
        wanted = rows.filter(adapt_ds=adapt_ds, adapt_resolution=adapt_resolution)
        measured = [row for row in wanted if row.adapt_final_test is not None]
        if not measured:
            there = sorted({f"{row.adapt_ds}-res_{row.adapt_resolution}" for row in rows})
            raise ValueError(
                f"the index has no measured fine-tuning of {upstream} on {adapt_ds} at "
                f"{adapt_resolution} px. It has: {', '.join(there) or 'none of that file'}"
            )
        return max(measured, key=lambda row: row.adapt_final_test).adapt_filename

    def resolve(self, choice):
        """The file name that a choice (`is_choice`) stands for."""
        upstream, ds, resolution = _CHOICE.fullmatch(choice).groups()
        if ds is None:
            return self.best_upstream(upstream)
        return self.best_finetuned(upstream, ds, int(resolution))


def is_choice(text):
    """Whether a name leaves something to the index: the file of a model, the steps of a tuning.

    >>> is_choice("B_16"), is_choice("B_16--imagenet2012-res_384"), is_choice("B_17")
    (True, True, False)
    """
    found = _CHOICE.fullmatch(text)
    # A full name without a tuning leaves nothing open.
    return found is not None and ("-" not in found[1] or found[2] is not None)


def augreg_index(path=None):
    """Reads the official table of AugReg files.

    Args:
        path: a local copy of index.csv; None takes the official one from the cache, downloading it
            the first time.

    Returns:
        `AugRegIndex`.

    Raises:
        ValueError: if a column is missing or unknown, or a value cannot be read.
        DownloadError: if the file cannot be had.
    """
    if path is None:
        path = fetch.fetch(INDEX_URL)
    with open(path, newline="", encoding="utf-8") as f:
        lines = csv.reader(f, strict=True)
        header = next(lines, [])
        if sorted(header) != sorted(_COLUMNS):
            missing = [f" - {c}" for c in sorted(set(_COLUMNS) - set(header))]
            unexpected = [f" + {c}" for c in sorted(set(header) - set(_COLUMNS))]
            problems = "\n".join(missing + unexpected) or " + one column twice"
            raise ValueError(f"{path} is not AugReg's index.csv; its columns differ:\n{problems}")
        try:
            rows = [_row(header, line) for line in lines]
        except (ValueError, csv.Error) as e:
            raise ValueError(f"{path}, line {lines.line_num}: {e}") from e
    return AugRegIndex(rows)


def _row(header, texts):
    if len(texts) != len(header):
        raise ValueError(f"expected {len(header)} values, found {len(texts)}")
    values = {}
    for column, text in zip(header, texts, strict=True):
        if column in _OPTIONAL and text.lower() in ("", "nan"):
            values[column] = None
            continue
        try:
            values[column] = _COLUMNS[column](text)
        except (ValueError, OverflowError) as e:
            raise ValueError(f"column `{column}`: {e}") from e
        if not text or (isinstance(values[column], float) and not math.isfinite(values[column])):
            raise ValueError(f"column `{column}` must not be {text!r}")
    return AugRegRow(**values)


def _unknown(what, name, known):
    close = close_names(name, known, cutoff=0.4)
    hint = f"Did you mean {', '.join(close)}?" if close else f"Known: {', '.join(known)}"
    return f"Unknown {what}. Received: {name!r}. {hint}"
