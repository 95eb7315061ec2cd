"""Calibration of a classifier: expected calibration error, and the temperature that lowers it.

Shapes: n images, C classes.
"""

import dataclasses

import numpy as np
from absl import logging

from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.evaluators import outputs
from keras_vit.evaluators.classification import cross_entropy
from keras_vit.models.task import Task, task_of

NUM_BINS = 15
# What is sought among, and to how many parts of it.
_TEMPERATURES, _RELATIVE = (1e-2, 1e2), 1e-6


def softmax(logits, temperature=1.0):
    """Probabilities (n, C) of logits (n, C).

    >>> softmax(np.array([[0.0, np.log(3.0)]])).round(4).tolist()
    [[0.25, 0.75]]
    """
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected_calibration_error(probabilities, labels, num_bins=NUM_BINS):
    """How far the highest probability is from being right as often (arXiv:1706.04599, Eq. 3).

    Args:
        probabilities: Floats (n, C).
        labels: Integers (n,).
        num_bins: Number of equal parts of (0, 1], each open at its lower end.

    Returns:
        The mean over the images of |accuracy - mean probability| of their bin, in [0, 1].

    >>> expected_calibration_error(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1])).round(3)
    0.4
    """
    highest = probabilities.max(-1)
    is_right = probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(highest * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, is_right - highest, minlength=num_bins)
    return np.abs(gaps).sum() / len(labels)


def best_temperature(logits, labels):
    """The temperature of the least cross-entropy (arXiv:1706.04599, section 4.2), in [0.01, 100].

    Args:
        logits: Floats (n, C).
        labels: Integers (n,).
    """
    from scipy import optimize

    def loss(log_temperature):
        return float(np.mean(cross_entropy(logits / np.exp(log_temperature), labels)))

    # Convex in 1 / T, so that it has one valley.
    found = optimize.minimize_scalar(
        loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": _RELATIVE}
    )
    return float(np.exp(found.x))


def calibrate(model, dataset, split="validation", batch_size=64):
    """Gives a classifier the temperature that fits a split; accuracy stays as it is.

    `predict` and exports divide the logits by it; the logits themselves stay as they are.  Save the
    model as a `.keras` file to keep it.

    Args:
        model: A model of this package, for one class an image; its `task` is changed.
        dataset, split, batch_size: As in `keras_vit.evaluate`; not what it was trained on.

    Returns:
        A dict of `temperature`, and of `ece` and `loss` (cross-entropy in nats) before and after,
        `ece_before`, `ece`, `loss_before`, `loss`, all on that split.

    Raises:
        ValueError: For a model of another task, or images that have not one class each.
    """
    task = task_of(model)
    if task.kind != CLASSIFICATION:
        raise ValueError(
            f"a calibration needs a model of one class an image. Received: one of {task.kind!r}"
        )
    _, logits, labels = outputs.answers(model, dataset, split, batch_size, task=CLASSIFICATION)
    if labels.ndim != 1:
        raise ValueError(
            f"a calibration needs one class for each image. Received: labels {labels.shape}"
        )
    temperature = best_temperature(logits, labels)
    if not np.isclose(np.clip(temperature, 0.011, 90.0), temperature):
        logging.warning(
            "the temperature %g is at the end of its range: the split is too small, or its images "
            "are all right or all wrong",
            temperature,
        )
    model.task = Task(temperature=temperature)
    before = _measure(logits, labels, task.temperature or 1.0)
    return {
        "temperature": temperature,
        **{f"{name}_before": value for name, value in before.items()},
        **_measure(logits, labels, temperature),
    }


def _measure(logits, labels, temperature):
    return {
        "ece": float(expected_calibration_error(softmax(logits, temperature), labels)),
        "loss": float(np.mean(cross_entropy(logits / temperature, labels))),
    }


@dataclasses.dataclass
class Calibration(outputs.SplitEvaluator):
    """Evaluator of the expected calibration error of a classifier, with its temperature.

    Args:
        split, dataset, batch_size, between: As in `keras_vit.evaluators.outputs.SplitEvaluator`.
        name: Name of the evaluator.
    """

    name: str = "calibration"
    task = CLASSIFICATION

    @staticmethod
    def measure(logits, labels, model):
        """`ece` and `loss`."""
        return _measure(logits, labels, task_of(model).temperature or 1.0)
