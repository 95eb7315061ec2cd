"""Keras callbacks of a run; each also works in a `fit` of your own."""

import contextlib
import math
import sys

import keras
from absl import logging

from keras_vit.evaluation.classification import evaluate_batches, evaluation_batches
from keras_vit.training.optimizers import averaged_weights

_IMAGES_A_LINE = 50_000


class TrainingError(RuntimeError):
    """A training that cannot go on."""


@contextlib.contextmanager
def image_progress(total):
    """Shows on stderr how many of `total` images are done, in the log where that is no terminal.

    Yields:
        A function to call after each.
    """
    if sys.stderr.isatty():
        import tqdm

        with tqdm.tqdm(total=total, desc="checking", unit="image", leave=False) as bar:
            yield bar.update
        return
    count = 0

    def advance():
        nonlocal count
        count += 1
        if count % _IMAGES_A_LINE == 0:
            logging.info("%d of %d images checked", count, total)

    yield advance


class StopAfter(keras.callbacks.Callback):
    """Ends a training after a number of steps, in the middle of an epoch if need be.

    Args:
        total_steps: number of steps, counted from the beginning of the training.
        start_step: those of them that were done before, by another process.
    """

    def __init__(self, total_steps, start_step=0):
        super().__init__()
        self.total_steps = total_steps
        self.start_step = self.step = start_step

    def on_train_begin(self, logs=None):
        self.step = self.start_step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step >= self.total_steps:
            self.model.stop_training = True


class RequireFiniteLoss(keras.callbacks.Callback):
    """Raises `TrainingError` when the steps go on having a loss or a gradient that is not finite.

    The models and optimizers of this package do not apply such a step, so that a few of them do no
    harm.  In mixed float16 a gradient that overflows is none of them while the loss is scaled: the
    scale is halved, and counted is what is not finite at the scale 1.

    Args:
        limit: number of such steps in a row that ends the training.
        start_step: number of steps that were done before, by another process.
        describe_examples: from a step, counted from 0, to text that says which examples it had.
    """

    def __init__(self, limit=3, start_step=0, describe_examples=None):
        super().__init__()
        self.limit = limit
        self.start_step = self.step = start_step
        self.describe_examples = describe_examples
        self.num_bad = 0

    def on_train_begin(self, logs=None):
        self.step = self.start_step
        self.num_bad = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        values = {name: float((logs or {}).get(name, 0.0)) for name in ("loss", "gradient_norm")}
        bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            self.num_bad = 0
            return
        scale = float((logs or {}).get("loss_scale", 1.0))
        if scale > 1.0 and math.isfinite(values["loss"]):
            logging.info("step %d overflows in float16; the loss scale is %g", self.step, scale)
            return
        self.num_bad += 1
        examples = ""
        if self.describe_examples is not None:
            examples = f", with {self.describe_examples(self.step - 1)}"
        if self.num_bad < self.limit:
            logging.warning("step %d is not finite: %s%s", self.step, " and ".join(bad), examples)
            return
        raise TrainingError(
            f"the training is not finite at step {self.step}: {' and '.join(bad)}{examples}; it is "
            f"the last of {self.num_bad} such steps in a row, of which nothing was written. Lower "
            "`learning_rate`, lengthen `warmup_steps`, set `global_clipnorm`, or mend the examples"
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
        between: called before each batch, `ExactResume.check_signals` for example; or None.
    """

    def __init__(self, info, split, batch_size, between=None):
        super().__init__()
        self.info = info
        self.split = split
        self.batch_size = batch_size
        self.between = between
        self._batches = None

    def on_epoch_end(self, epoch, logs=None):
        if self._batches is None:
            self._batches = evaluation_batches(
                self.model, self.info, self.split, self.batch_size, repeated=True
            )
        with averaged_weights(self.model):
            metrics = evaluate_batches(self.model, self._batches, between=self.between)
        if logs is not None:
            logs["val_loss"], logs["val_accuracy"] = metrics["loss"], metrics["accuracy"]


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal's stderr, else a line in the log at the end of each epoch.

    Nothing goes to stdout, which belongs to results (Keras's own bar is written there).

    Args:
        total_steps: number of steps of the training.
        title: what is being done.
        start_step: number of steps that were done before, by another process.
        waiting: a `keras_vit.data.waiting.WaitingShare` over the data, whose share is shown, or
            None.
    """

    def __init__(self, total_steps, title, start_step=0, waiting=None):
        super().__init__()
        self.total_steps = total_steps
        self.title = title
        self.start_step = self.step = start_step
        self.waiting = waiting
        self._bar = None

    def on_train_begin(self, logs=None):
        self.step = self.start_step
        if sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(
                total=self.total_steps, initial=self.step, desc=self.title, unit="step"
            )

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        numbers = {name: f"{float(value):.4g}" for name, value in (logs or {}).items()}
        if self.waiting is not None:
            numbers["waiting for data"] = f"{100 * self.waiting.share:.0f} %"
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
