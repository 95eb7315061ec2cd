"""Keras callbacks of a run; each also works in a `fit` of your own."""

import math
import sys

import keras
from absl import logging

from keras_vit.evaluation.classification import evaluate_batches, evaluation_batches
from keras_vit.training.optimizers import averaged_weights


class TrainingError(RuntimeError):
    """A training that cannot go on."""


class StopAfter(keras.callbacks.Callback):
    """Ends a training after a number of steps, in the middle of an epoch if need be.

    Args:
        total_steps: number of steps, counted from the beginning of the training.
    """

    def __init__(self, total_steps):
        super().__init__()
        self.total_steps = total_steps
        self.step = 0

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step >= self.total_steps:
            self.model.stop_training = True


class RequireFiniteLoss(keras.callbacks.Callback):
    """Raises `TrainingError` at the first step whose loss is not finite, and names the step."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        # A mean over the epoch so far: not finite from the first such step on.
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is not finite at step {self.step}: {loss}; nothing was written. "
                "Lower `learning_rate`, lengthen `warmup_steps`, or set `global_clipnorm`"
            )


class Validation(keras.callbacks.Callback):
    """Adds `val_accuracy` and `val_loss` to the logs of each epoch, each image counted once.

    It is the moving average of the weights that is evaluated, where the optimizer keeps one.
    Keras's own `validation_data` weighs a padded last batch like a full one.  Put it before the
    callbacks that read the logs.

    Args:
        info: a `DatasetInfo`.
        split: the split's name.
        batch_size: images in one call of the model.
    """

    def __init__(self, info, split, batch_size):
        super().__init__()
        self.info = info
        self.split = split
        self.batch_size = batch_size
        self._batches = None

    def on_epoch_end(self, epoch, logs=None):
        if self._batches is None:
            self._batches = evaluation_batches(self.model, self.info, self.split, self.batch_size)
        with averaged_weights(self.model):
            metrics = evaluate_batches(self.model, self._batches)
        if logs is not None:
            logs["val_loss"], logs["val_accuracy"] = metrics["loss"], metrics["accuracy"]


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal's stderr, else a line in the log at the end of each epoch.

    Nothing goes to stdout, which belongs to results (Keras's own bar is written there).

    Args:
        total_steps: number of steps of the training.
        title: what is being done.
    """

    def __init__(self, total_steps, title):
        super().__init__()
        self.total_steps = total_steps
        self.title = title
        self.step = 0
        self._bar = None

    def on_train_begin(self, logs=None):
        self.step = 0
        if sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(total=self.total_steps, desc=self.title, unit="step")

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        numbers = {name: f"{float(value):.4g}" for name, value in (logs or {}).items()}
        if self._bar is not None:
            self._bar.set_postfix(numbers)
        else:
            text = ", ".join(f"{name} {number}" for name, number in numbers.items())
            logging.info("%s: step %d/%d: %s", self.title, self.step, self.total_steps, text)

    def close(self):
        """Ends the bar, whether or not the training came to its end."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
