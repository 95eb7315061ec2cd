"""Cross-entropies, summed over the classes as the official code does.

Shapes: B batch, C classes.
"""

import keras
from absl import logging


class _Crossentropy(keras.losses.Loss):
    """Labels (B,) or (B, C) and logits (B, C) -> a value for each example, then their mean."""

    def __init__(self, label_smoothing=0.0, name=None, reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")
        self.label_smoothing = label_smoothing

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def _targets(labels, logits):
    """(B, C): labels that are shares of the classes as they are, integer labels one-hot."""
    num_classes = logits.shape[-1]
    if len(labels.shape) == 2 and labels.shape[-1] == num_classes > 1:
        return keras.ops.cast(labels, logits.dtype)
    labels = keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32")
    return keras.ops.one_hot(labels, num_classes, dtype=logits.dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class SoftmaxCrossentropy(_Crossentropy):
    """Softmax cross-entropy; smoothing s makes the targets 1 - s + s / C and s / C.

    Args:
        label_smoothing: s.
        name: of the loss.
        reduction: of Keras.
        dtype: of the computation.

    Call arguments:
        y_true: (B,) integer labels, or (B, C) shares of the classes, as mixed images have.
        y_pred: (B, C) logits.

    Returns:
        The mean over the batch.
    """

    def call(self, y_true, y_pred):
        if y_pred.shape[-1] == 1:
            logging.log_first_n(
                logging.WARNING,
                "the softmax of one logit is always 1, so that this loss is 0 and trains nothing; "
                "use SigmoidCrossentropy (in a recipe loss='sigmoid'), or two classes",
                1,
            )
        share = self.label_smoothing / y_pred.shape[-1]
        targets = _targets(y_true, y_pred) * (1.0 - self.label_smoothing) + share
        return -keras.ops.sum(targets * keras.ops.log_softmax(y_pred), axis=-1)  # (B,)


@keras.saving.register_keras_serializable(package="keras_vit")
class SigmoidCrossentropy(_Crossentropy):
    """Sigmoid cross-entropy summed over the classes (`keras.losses.BinaryCrossentropy` averages).

    Smoothing s makes the targets 1 - s and s, as in the official pre-training on ImageNet.

    Args:
        label_smoothing: s.
        name: of the loss.
        reduction: of Keras.
        dtype: of the computation.

    Call arguments:
        y_true: (B,) integer labels, or (B, C) shares of the classes, as mixed images have.  With
            one logit (B,) or (B, 1), the targets in [0, 1] themselves.
        y_pred: (B, C) logits.

    Returns:
        The mean over the batch.
    """

    def call(self, y_true, y_pred):
        if y_pred.shape[-1] == 1:
            hot = keras.ops.cast(keras.ops.reshape(y_true, (-1, 1)), y_pred.dtype)
        else:
            hot = _targets(y_true, y_pred)
        targets = hot * (1.0 - 2.0 * self.label_smoothing) + self.label_smoothing
        positive = keras.ops.log_sigmoid(y_pred)
        negative = keras.ops.log_sigmoid(-y_pred)
        return -keras.ops.sum(targets * positive + (1.0 - targets) * negative, axis=-1)  # (B,)


LOSSES = {"softmax": SoftmaxCrossentropy, "sigmoid": SigmoidCrossentropy}
