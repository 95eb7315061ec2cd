"""What is said about an image, in the terms of a model's task."""

import dataclasses

import numpy as np

from keras_vit.data.tasks import CLASSIFICATION, MULTILABEL, REGRESSION
from keras_vit.models.task import ACTIVATIONS as TASK_ACTIVATIONS
from keras_vit.models.task import Task
from keras_vit.serving.options import ACTIVATIONS

_TOP_K = 5


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of an answer.

    Args:
        class_id: index of the logit.
        class_name: the model's name for it, or the index as text.
        probability: in [0, 1]; with the activation `"none"` the model's score itself.
    """

    class_id: int
    class_name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Value:
    """One value of an image, of a regression.

    Args:
        name: the model's name for it, or its index as text.
        value: in the units of the data that the model was trained on.
    """

    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class ImagePredictions:
    """What is said about one path.

    Args:
        path: of the image file.
        predictions: the best classes, most probable first; of a model of several labels those whose
            probability reaches their thresholds, perhaps none; of a regression a `Value` for each
            output; empty if there is an error.
        error: why there are none, or None.
    """

    path: str
    predictions: tuple[Prediction | Value, ...] = ()
    error: str | None = None


def choose_activation(classifier, activation=None):
    """The activation that is asked for, or the one that makes sense for a classifier.

    Raises:
        ValueError: for an unknown one, or the softmax of a single output.
    """
    kind = task_of_classifier(classifier).kind
    is_single = classifier.num_classes == 1 and kind == CLASSIFICATION
    if activation is None:
        return "none" if is_single else classifier.activation or TASK_ACTIVATIONS[kind]
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {ACTIVATIONS}. Received: {activation!r}")
    if is_single and activation == "softmax":
        raise ValueError(
            "`activation` must be sigmoid or none for a model of one output, whose softmax is "
            "always 1. Received: 'softmax'"
        )
    if kind != CLASSIFICATION and activation != TASK_ACTIVATIONS[kind]:
        raise ValueError(
            f"`activation` must be {TASK_ACTIVATIONS[kind]!r} for a model of the task {kind!r}. "
            f"Received: {activation!r}"
        )
    return activation


def choose_top_k(classifier, top_k=None):
    """The number of classes that is asked for, or the one that makes sense for a classifier."""
    kind = task_of_classifier(classifier).kind
    if kind == REGRESSION or (kind == MULTILABEL and top_k is None):
        return classifier.num_classes
    return _TOP_K if top_k is None else top_k


def task_of_classifier(classifier):
    """The `Task` of a classifier; of one that does not say, one class an image."""
    return getattr(classifier, "task", None) or Task()


def said(classifier, probabilities, top_k):
    """The predictions of an image, in the terms of the task."""
    names, task = classifier.class_names, task_of_classifier(classifier)
    if task.kind == REGRESSION:
        return tuple(Value(n, float(v)) for n, v in zip(names, probabilities, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    if task.kind == MULTILABEL:
        thresholds = task.thresholds_of(len(names))
        best = [i for i in best if probabilities[i] >= thresholds[i]]
    return tuple(Prediction(int(i), names[i], float(probabilities[i])) for i in best)
