"""A report on one or two models: a page, a picture or JSON.

The page is one file without scripts that opens in any browser without a server.
"""

import importlib.util
import json
import pathlib

import numpy as np
from absl import logging

from keras_vit.analysis.inspection import inspect
from keras_vit.analysis.similarity import compare
from keras_vit.files import write_whole
from keras_vit.zoo.loading import from_pretrained

REPORT = "report.html"
FORMATS = ("html", "json", "png")
# Digits of a number in JSON: what float32 holds and a reader needs.
_DIGITS = 6


def write_report(workdir, model=None, *, photographs=None):
    """Writes `report.html` into the folder of a run; for the end of a training.

    Without Matplotlib and Pillow, or where the file cannot be written, it says so in the log and
    leaves the run as it is.

    Args:
        workdir: Folder of the run.
        model: The trained model; None loads it from the folder.
        photographs: `Photographs` as the model takes them; None leaves the parts about images out.

    Returns:
        `pathlib.Path` of the report, or None where there is none.

    Raises:
        CheckpointError: if the model has to be loaded and cannot be.
    """
    missing = [name for name in ("matplotlib", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        logging.info("no %s: the extra `plots` is not installed (%s)", REPORT, ", ".join(missing))
        return None
    workdir = pathlib.Path(workdir)
    model = from_pretrained(workdir) if model is None else model
    found = inspect(model, source=workdir, workdir=workdir, photographs=photographs)
    path = workdir / REPORT
    try:
        write(path, [found])
    except OSError as error:
        logging.warning("no %s: %s", path, error.strerror or error)
        return None
    return path


def write(path, inspections, format="html"):
    """Writes a report whole or not at all.

    Args:
        path: Of the file.
        inspections: One or two `Inspection`s; two on the same images are compared.
        format: One of `FORMATS`.

    Raises:
        ValueError: for an unknown format.
        OSError: if it cannot be written.
    """
    write_whole(path, render(inspections, format))


def render(inspections, format="html"):
    """A report as the bytes of its file; arguments and errors are those of `write`."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: {format!r}")
    if format == "json":
        text = json.dumps(as_json(inspections), indent=1, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode(errors="backslashreplace")
    if format == "png":
        from keras_vit.analysis import plots

        return plots.to_png(plots.overview_figure(inspections))
    from keras_vit.analysis.report_sections import html_text

    return html_text(inspections).encode(errors="backslashreplace")


def as_json(inspections):
    """A report as lists, dicts, texts and numbers; None stands for what is not finite."""
    report = {"models": [_one(found) for found in inspections]}
    if len(inspections) == 2 and all(found.images is not None for found in inspections):
        first, second = (found.images.features for found in inspections)
        if len(inspections[0].pixels) == len(inspections[1].pixels) > 1:
            report["linear_cka"] = _similarity(compare(first, second))
    return _plain(report)


def _one(found):
    row = {
        "label": found.label,
        **found.facts,
        "run": found.run,
        "filters": {
            "layer": found.filters.layer,
            "explained_variance_ratio": found.filters.explained_variance_ratio,
        },
        "position_similarity": found.positions,
    }
    if found.images is None:
        return row
    images, photographs = found.images, found.photographs
    distance = images.attention_distance
    row["attention_distance"] = None if distance is None else distance.mean(axis=1)
    row["activations"] = images.activations
    if len(found.pixels) > 1:
        row["linear_cka"] = _similarity(compare(images.features, images.features))
    row["images"] = [_image(found, i) for i in range(len(photographs.names))]
    row["skipped_images"] = [{"path": p, "reason": reason} for p, reason in photographs.skipped]
    return row


def _image(found, i):
    images = found.images
    best = None
    if found.top is not None:
        best = [{"class_name": name, "probability": share} for name, share in found.top[i]]
    shares = None
    if found.shares is not None:
        shares = [{"class_name": name, "share": share} for name, share in found.shares[i]]
    return {
        "path": found.photographs.names[i],
        "predictions": best,
        **({} if shares is None else {"mask": shares}),
        "attention_rollout": None if images.rollout is None else images.rollout[i],
        "grad_cam": None if images.grad_cam is None else images.grad_cam[i],
    }


def _similarity(similarity):
    return {"rows": similarity.rows, "columns": similarity.columns, "values": similarity.values}


def _plain(value):
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value
