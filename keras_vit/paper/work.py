"""What an experiment is made of: runs, and cells that are read off them.  Plain data.

A run is one piece of work with a folder of its own; it may start from the model of another run.
A cell is a place in the table: the mean of one number over some runs, beside the paper's.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

# What a run does.
PRETRAIN = "pretrain"  # a recipe from random weights
CHECKPOINT = "checkpoint"  # a released file, or a source of the user's
FINETUNE = "finetune"  # a recipe from `source`; several rates are chosen between on validation
EVALUATE = "evaluate"  # the model of `source` on another data set
FEW_SHOT = "few_shot"  # few-shot accuracy of the model of `source`
KINDS = (PRETRAIN, CHECKPOINT, FINETUNE, EVALUATE, FEW_SHOT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One piece of work.

    Args:
        name: Name of the run, and its folder's below the work directory.
        kind: One of `KINDS`.
        model: A name of `keras_vit.list_models()`, or the source of a model of the user's.
        source: Name of the run that it starts from.
        checkpoint: What `keras_vit.from_pretrained` takes; of a `CHECKPOINT` only.
        dataset: Name of the data set, one of the paper's where it is not public.
        recipe: Name of the recipe of a training.
        changes: Fields of the recipe in the place of its own.
        architecture: Fields of the model's configuration in the place of the preset's.
        train_split: The split that is trained on.
        shots: Images of a class of few-shot evaluations.
        few_shot_split: The split that their images are chosen from.
        few_shot_dataset: Data set of those that go with a pre-training; None for none.
        few_shot_points: How many of them there are, evenly over the steps; the last one at the end.
    """

    name: str
    kind: str
    model: str
    source: str | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    recipe: str | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train_split: str = "train"
    shots: int | None = None
    few_shot_split: str = "train"
    few_shot_dataset: str | None = None
    few_shot_points: int | None = None

    def digest(self):
        """A digest of all that it is, by which a finished run is known to be this one."""
        known = {field.name: field.default for field in dataclasses.fields(self)}
        fields = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            # A run without these has the digest that it had before there were any.
            if not (name.startswith("few_shot_") and value == known[name])
        }
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of the table.

    Args:
        row: Name of the row.
        column: Name of the column.
        runs: Names of the runs whose numbers are averaged.
        repeats: How often the experiment is repeated with other seeds; of n repeats every n-th run
            belongs to the same, and the deviation is that of their means.
        metric: The number of a run's result, "accuracy" for example.
        published: The paper's number, or None.
        published_deviation: The paper's deviation over runs, or None.
        scale: What the number of a run is multiplied by, 100 for per cent.
        x: The place on a figure's axis, or None.
    """

    row: str
    column: str
    runs: tuple[str, ...]
    repeats: int = 1
    metric: str = "accuracy"
    published: float | None = None
    published_deviation: float | None = None
    scale: float = 100.0
    x: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure.

    Args:
        name: Name that it is asked for by.
        title: What it shows, one line.
        runs: `Run`s, each after the one that it starts from.
        cells: `Cell`s.
        x_label: What a figure's axis is; None for a table.
        notes: What a reader must know, sentences.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    x_label: str | None = None
    notes: tuple[str, ...] = ()


class Builder:
    """Collects runs and cells; of runs with the same name there is one.

    Attributes:
        runs: name -> `Run`.
        cells: list of `Cell`.
    """

    def __init__(self):
        self.runs = {}
        self.cells = []

    def run(self, name, kind, **fields):
        """Adds a run unless it is there.

        Returns:
            Its name.
        """
        self.runs.setdefault(name, Run(name=name, kind=kind, **fields))
        return name

    def cell(self, row, column, runs, **fields):
        """Adds a cell over one run or several."""
        runs = (runs,) if isinstance(runs, str) else tuple(runs)
        self.cells.append(Cell(row=row, column=column, runs=runs, **fields))

    def build(self, name, title, **fields):
        """The `Experiment` of what was collected."""
        return Experiment(
            name=name,
            title=title,
            runs=tuple(self.runs.values()),
            cells=tuple(self.cells),
            **fields,
        )
