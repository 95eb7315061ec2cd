"""A model class by class: precision, recall, F1 and which classes are taken for which.

Shapes: n images, C classes or labels, K values.
"""

import numpy as np

from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL
from keras_vit.evaluators import calibration, multilabel, outputs, regression
from keras_vit.models.task import task_of


def make_report(model, dataset, split="test", batch_size=64, *, class_names=None):
    """Measures a model class by class.

    Args:
        model, dataset, split, batch_size, class_names: As in `keras_vit.evaluate`.

    Returns:
        A dict that JSON can hold: `task`, `dataset`, `split`, `count`, and

        - of one class an image `accuracy`, `ece` (15 bins), `confusion_matrix` (a row for each
          true class, a column for each class that was answered) and `classes`;
        - of several labels what `multilabel.measure` returns, and `classes`;
        - of a regression what `regression.measure` returns, for each value in `values`.

        `classes` has for each class `precision`, `recall`, `f1`, `support` (images that have it),
        and of several labels `average_precision` (None where no image has it) and `threshold`.

    Raises:
        ValueError: As `keras_vit.evaluate`, or for images with shares of classes.
    """
    task = task_of(model)
    info, logits, labels = outputs.answers(
        model, dataset, split, batch_size, task=task.kind, class_names=class_names
    )
    measure = {CLASSIFICATION: _classes, MULTILABEL: _labels}.get(task.kind, _values)
    measured = measure(info, logits, labels, task)
    about = {"task": task.kind, "dataset": info.name, "split": split, "count": len(labels)}
    return {**about, **measured}


def _classes(info, logits, labels, task):
    if labels.ndim != 1:
        raise ValueError(
            f"a report needs one class for each image. Received: labels {labels.shape}"
        )
    matrix = confusion_matrix(labels, logits.argmax(-1), info.num_classes)
    right = np.diag(matrix)
    probabilities = calibration.softmax(logits, task.temperature or 1.0)
    return {
        "accuracy": float(right.sum() / matrix.sum()),
        "ece": float(calibration.expected_calibration_error(probabilities, labels)),
        "classes": _rows(info.class_names, right, matrix.sum(0), matrix.sum(1)),
        "confusion_matrix": matrix.tolist(),
    }


def _labels(info, logits, labels, task):
    from sklearn.metrics import average_precision_score

    thresholds = task.thresholds_of(info.num_classes)
    hot, given = labels > 0.5, multilabel.probabilities(logits) >= np.asarray(thresholds)
    rows = _rows(info.class_names, (hot & given).sum(0), given.sum(0), hot.sum(0))
    for k, row in enumerate(rows):
        row["threshold"] = thresholds[k]
        row["average_precision"] = None
        if row["support"]:
            row["average_precision"] = float(average_precision_score(hot[:, k], logits[:, k]))
    return {**multilabel.measure(logits, labels, thresholds), "classes": rows}


def _values(info, predicted, values, task):
    predicted = task.values_of(predicted)
    each = [
        {"name": name, **regression.measure(predicted[:, k : k + 1], values[:, k : k + 1])}
        for k, name in enumerate(info.class_names)
    ]
    return {**regression.measure(predicted, values), "values": each}


def _rows(names, right, num_given, support):
    """Precision, recall and F1 of each class; 0 where there is nothing to divide by."""

    def share(part, whole):
        return np.divide(part, whole, out=np.zeros(len(names)), where=np.asarray(whole) > 0)

    columns = share(right, num_given), share(right, support), share(2 * right, num_given + support)
    return [
        {"name": name, "precision": p, "recall": r, "f1": f, "support": int(support[k])}
        for k, (name, p, r, f) in enumerate(
            zip(names, *(column.tolist() for column in columns), strict=True)
        )
    ]


def confusion_matrix(labels, answered, num_classes):
    """int (C, C): how many images of a row's class were taken for a column's.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    places = np.asarray(labels) * num_classes + np.asarray(answered)
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)
