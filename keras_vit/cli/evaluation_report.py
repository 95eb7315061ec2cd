"""The report of `keras-vit evaluate --report`: a model class by class, in a folder."""

import numpy as np

from keras_vit.cli import output

REPORT, CONFUSION_MATRIX = "report.json", "confusion_matrix.png"


def check(folder, overwrite):
    """The paths of a report's files, before the work begins.

    Args:
        folder: Path of the folder.
        overwrite: Whether its files may be replaced.

    Raises:
        CommandError: If they are there and must not be replaced, or the folder cannot be written.
    """
    folder = output.check_output_path(folder, "the report")
    output.check_writable_folder(folder)
    return [output.check_new_file(folder / name, overwrite) for name in (REPORT, CONFUSION_MATRIX)]


def write(paths, report):
    """Writes the report, and of one class an image the picture of its confusion matrix.

    Args:
        paths: Of `check`.
        report: Of `keras_vit.evaluators.report.make_report`.

    Returns:
        The paths that were written.

    Raises:
        ImportError: If there is a picture to draw and Matplotlib is not installed.
    """
    path, picture = paths
    path.parent.mkdir(parents=True, exist_ok=True)
    output.write_json(path, report)
    if "confusion_matrix" not in report:
        return [path]
    from keras_vit.analysis import plots

    names = [row["name"] for row in report["classes"]]
    figure = plots.confusion_figure(np.array(report["confusion_matrix"]), names)
    picture.write_bytes(plots.to_png(figure))
    return paths
