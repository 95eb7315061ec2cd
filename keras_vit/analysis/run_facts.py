"""What the folder of a run says about its training: recipe, history, metrics, skipped images.

The files are those that `keras_vit.training.run_folder` names.  A folder may be old, unfinished or
edited by hand: what cannot be read is said, and costs nothing else its place.
"""

import csv
import json
import math
import pathlib
import shlex

from keras_vit.files import read_regular

RECIPE, HISTORY, METRICS, SKIPPED = "recipe.json", "history.csv", "metrics.json", "skipped.jsonl"
_MAX_BYTES = 2**26
_FILES = (RECIPE, HISTORY, METRICS, SKIPPED)
# What is plotted against, and what says nothing.
_TIMES = ("step", "epoch")
_VALIDATION = "val_"


def is_run(path):
    """Whether a path is a folder with a run's recipe, history or metrics."""
    path = pathlib.Path(path)
    return path.is_dir() and any((path / name).is_file() for name in (RECIPE, HISTORY, METRICS))


def run_facts(workdir):
    """What the files of a run say.

    Args:
        workdir: Folder of the run.

    Returns:
        A dict: `recipe` and `metrics` (dicts), `history` (dict from a column's name to a list of
        floats, nan where there is none), `skipped` (list of dicts), `problems` (a sentence for
        each file that is there and cannot be read), and `next` (`next_commands`).
    """
    workdir = pathlib.Path(workdir)
    readers = {RECIPE: _read_json, METRICS: _read_json, HISTORY: _read_csv, SKIPPED: _read_lines}
    found, problems = {RECIPE: {}, METRICS: {}, HISTORY: {}, SKIPPED: []}, []
    for name, read in readers.items():
        path = workdir / name
        if not path.is_file():
            continue
        try:
            found[name] = read(path)
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {error}")
    metrics = found[METRICS]
    dataset = metrics.get("dataset") if "test" in metrics else None
    return {
        **{name.split(".")[0]: found[name] for name in _FILES},
        "problems": problems,
        "next": next_commands(workdir, dataset if isinstance(dataset, str) else None),
    }


def next_commands(workdir, dataset=None):
    """What to do with a finished run: (what for, the command line).

    Args:
        workdir: Folder of the run.
        dataset: What the run was trained on, as text, or None.

    >>> next_commands("runs/my photos")[0]
    ('predict', "keras-vit predict --model='runs/my photos' PICTURES")
    """
    model = f"--model={shlex.quote(str(workdir))}"
    serving = shlex.quote(str(pathlib.Path("serving") / pathlib.Path(workdir).name))
    lines = [
        ("predict", f"keras-vit predict {model} PICTURES"),
        ("export", f"keras-vit export {model} {serving}"),
    ]
    if dataset:
        lines.append(("evaluate", f"keras-vit evaluate {model} --dataset={shlex.quote(dataset)}"))
    return lines


def curves(history):
    """Groups the columns of a history into panels.

    Args:
        history: Dict from a column's name to a list of floats, of `run_facts`.

    Returns:
        `(groups, x_title)`: a dict from a quantity to a dict from "training" and "validation" to
        (x, y) lists without nan, and what x is.
    """
    time = next((name for name in _TIMES if name in history), None)
    groups = {}
    for name, values in history.items():
        if name in _TIMES:
            continue
        times = history[time] if time else range(1, len(values) + 1)
        points = [(x, y) for x, y in zip(times, values, strict=True) if math.isfinite(x + y)]
        if points:
            line = "validation" if name.startswith(_VALIDATION) else "training"
            title = name.removeprefix(_VALIDATION)
            groups.setdefault(title, {})[line] = tuple(zip(*points, strict=True))
    return groups, (time or "report").capitalize()


def _read_text(path):
    return read_regular(path, _MAX_BYTES).decode()


def _read_json(path):
    value = json.loads(_read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"an object is expected. Received: {type(value).__name__}")
    return value


def _read_csv(path):
    rows = list(csv.DictReader(_read_text(path).splitlines()))
    names = [name for name in rows[0] if name] if rows else []
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _read_lines(path):
    lines = _read_text(path).splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("each line must be a JSON object")
    return entries


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
