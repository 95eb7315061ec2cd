"""Several labels an image: average precision, F1, and the thresholds that are best for it.

Shapes: n images, C labels.
"""

import dataclasses

import numpy as np

from keras_vit.data.tasks import MULTILABEL
from keras_vit.evaluators import outputs
from keras_vit.models.task import THRESHOLD, task_of


@dataclasses.dataclass
class MultiLabel(outputs.SplitEvaluator):
    """Evaluator of a model of several labels: what `measure` returns for a split.

    Args:
        split, dataset, batch_size, name, between: As in
            `keras_vit.evaluators.outputs.SplitEvaluator`.
    """

    task = MULTILABEL

    @staticmethod
    def measure(logits, labels, model):
        """`measure` with the thresholds of a model."""
        return measure(logits, labels, task_of(model).thresholds_of(labels.shape[1]))


def evaluate(model, dataset, split="test", batch_size=64, **options):
    """As `keras_vit.evaluate`: what `measure` returns, and `count`, the number of images."""
    found = outputs.answers(model, dataset, split, batch_size, task=MULTILABEL, **options)
    return {**MultiLabel.measure(*found[1:], model), "count": len(found[1])}


def measure(logits, labels, thresholds):
    """How good the logits of several labels are.

    Args:
        logits: Floats (n, C).
        labels: (n, C), above 0.5 for each label that an image has.
        thresholds: C probabilities, from which a label is given.

    Returns:
        A dict of `mean_average_precision` (mean over the labels that an image has), `f1_micro` (of
        all labels of all images together), `f1_macro` (mean over the labels), and `loss` (sigmoid
        cross-entropy summed over the labels, in nats, its mean over the images).
    """
    from sklearn import metrics

    hot = labels > 0.5
    known = hot.any(0)
    if not known.any():
        raise ValueError("no image of the split has a label. Received: multi-hot labels of zeros")
    given = probabilities(logits) >= np.asarray(thresholds)
    # Column by column: scikit-learn takes a single one for two classes.
    f1s = [metrics.f1_score(*pair, zero_division=0.0) for pair in zip(hot.T, given.T, strict=True)]
    precisions = [
        metrics.average_precision_score(hot[:, k], logits[:, k]) for k in np.flatnonzero(known)
    ]
    losses = np.logaddexp(0.0, logits) - labels * logits  # (n, C)
    return {
        "mean_average_precision": float(np.mean(precisions)),
        "f1_micro": float(metrics.f1_score(hot.ravel(), given.ravel(), zero_division=0.0)),
        "f1_macro": float(np.mean(f1s)),
        "loss": float(losses.sum(-1).mean()),
    }


def probabilities(logits):
    """Sigmoid of the logits.

    >>> probabilities(np.array([0.0, -800.0])).tolist()
    [0.5, 0.0]
    """
    return np.exp(-np.logaddexp(0.0, -logits))


def _curve(scores, hot):
    """At each distinct score from the highest on: the score, how many have it or more, how many
    of these are right."""
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return scores[ends], ends + 1, np.cumsum(hot[order])[ends]


def best_thresholds(logits, labels):
    """For each label the threshold of the highest F1, between two probabilities of the split.

    Args:
        logits: Floats (n, C).
        labels: (n, C), above 0.5 for each label that an image has.

    Returns:
        A tuple of C floats in (0, 1); 0.5 for a label that no image has.

    >>> best_thresholds(np.array([[2.0], [1.0], [-1.0]]), np.array([[1.0], [1.0], [0.0]]))
    (0.5,)
    """
    thresholds = []
    for scores, hot in zip(probabilities(logits).T, (labels > 0.5).T, strict=True):
        if not hot.any():
            thresholds.append(THRESHOLD)
            continue
        known, num_given, num_right = _curve(scores, hot)
        best = int(np.argmax(2.0 * num_right / (num_given + hot.sum())))
        below = known[best + 1] if best + 1 < len(known) else known[best]
        thresholds.append(float((known[best] + below) / 2))
    return tuple(thresholds)
