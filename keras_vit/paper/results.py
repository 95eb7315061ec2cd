"""An experiment's results beside the paper's: as text, CSV, JSON and one HTML page."""

import csv
import dataclasses
import io
import json
import math
import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A cell with its number.

    Args:
        row, column: Its place.
        measured: The mean over its runs; None where one of them is not done.
        deviation: The standard deviation over repetitions, of n - 1; None where there is one.
        published: The paper's number, or None.
        published_deviation: The paper's deviation, or None.
        difference: measured - published, or None.
        x: The place on a figure's axis, or None.
        runs: Names of the runs.
    """

    row: str
    column: str
    measured: float | None
    deviation: float | None
    published: float | None
    published_deviation: float | None
    difference: float | None
    x: float | None
    runs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The results of an experiment; `str()` of them is the table.

    Args:
        experiment: The `Experiment`.
        values: A `Value` for each cell.
        seconds: What all its runs took.
    """

    experiment: object
    values: tuple[Value, ...]
    seconds: float

    @property
    def rows(self):
        """The names of the rows, in order."""
        return list(dict.fromkeys(value.row for value in self.values))

    @property
    def columns(self):
        """The names of the columns, in order."""
        return list(dict.fromkeys(value.column for value in self.values))

    def value(self, row, column):
        """The `Value` of a place; None where there is none."""
        for value in self.values:
            if (value.row, value.column) == (row, column):
                return value
        return None

    def __str__(self):
        table = [("", *self.columns)]
        for row in self.rows:
            table.append((row, *(show(self.value(row, column)) for column in self.columns)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [self.experiment.title, ""]
        for cells in table:
            padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        lines += ["", "measured [paper's] difference; all runs took " + duration(self.seconds)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.experiment.notes)])

    def to_csv(self):
        """A line for each cell."""
        stream = io.StringIO()
        names = [field.name for field in dataclasses.fields(Value)]
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        for value in self.values:
            writer.writerow({**dataclasses.asdict(value), "runs": " ".join(value.runs)})
        return stream.getvalue()

    def to_json(self):
        """Everything, as JSON."""
        return json.dumps(
            {
                "name": self.experiment.name,
                "title": self.experiment.title,
                "notes": list(self.experiment.notes),
                "seconds": round(self.seconds, 1),
                "values": [dataclasses.asdict(value) for value in self.values],
            },
            indent=1,
            allow_nan=False,
        )


def make_results(experiment, found):
    """Puts the numbers of runs into the cells.

    Args:
        experiment: `Experiment`.
        found: Name of a run -> its result, of those that are finished.

    Returns:
        `Results`.

    Raises:
        ValueError: For a finished run that has not the number of its cell.
    """
    values = []
    for cell in experiment.cells:
        numbers = []
        for name in cell.runs:
            if name not in found:
                continue
            if cell.metric not in found[name]["numbers"]:
                raise ValueError(
                    f"a run must have the number {cell.metric!r} that its cell shows. Received: "
                    f"{name} with {', '.join(found[name]['numbers'])}"
                )
            numbers.append(cell.scale * found[name]["numbers"][cell.metric])
        # No mean of some: VTAB's is that of 19 tasks, and Table 2's that of three runs.
        measured, means = None, ()
        if len(numbers) == len(cell.runs):
            means = [statistics.fmean(numbers[i :: cell.repeats]) for i in range(cell.repeats)]
            measured = statistics.fmean(means)
        has_both = measured is not None and cell.published is not None
        values.append(
            Value(
                row=cell.row,
                column=cell.column,
                measured=measured,
                deviation=statistics.stdev(means) if len(means) > 1 else None,
                published=cell.published,
                published_deviation=cell.published_deviation,
                difference=measured - cell.published if has_both else None,
                x=cell.x,
                runs=cell.runs,
            )
        )
    seconds = sum(found[run.name]["seconds"] for run in experiment.runs if run.name in found)
    return Results(experiment=experiment, values=tuple(values), seconds=seconds)


def show(value):
    """A cell as text, such as "83.91 [83.97] -0.06"; "-" where nothing is known."""
    if value is None or (value.measured is None and value.published is None):
        return "-"
    digits = 2
    if value.measured is not None and 0 < abs(value.measured) < 1:
        digits = 4 if abs(value.measured) > 1e-4 else 10
    text = "..." if value.measured is None else f"{value.measured:.{digits}f}"
    if value.deviation is not None:
        text += f" ± {value.deviation:.{digits}f}"
    if value.published is not None:
        text += f" [{value.published:g}]"
    if value.difference is not None:
        text += f" {value.difference:+.{digits}f}"
    return text


def duration(seconds):
    """A duration to read.

    >>> duration(75), duration(4000)
    ('1 min 15 s', '1 h 7 min')
    """
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {math.ceil(seconds % 3600 / 60)} min"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
