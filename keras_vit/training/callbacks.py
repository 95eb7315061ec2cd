"""Keras callbacks of a run; each also works in a `fit` of your own."""

import math
import sys

import keras
from absl import logging

from keras_vit.errors import TrainingError
from keras_vit.evaluators.base import Every, check_evaluators
from keras_vit.evaluators.classification import Classification
from keras_vit.training.optimizers import averaged_weights


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


class Evaluate(keras.callbacks.Callback):
    """Adds what evaluators measure to the logs of each epoch, as `name/key`.

    It is the moving average of the weights that is evaluated, where the optimizer keeps one.  What
    the evaluator "validation" measures is there as `val_key` too, as Keras's callbacks know it.
    Put it before the callbacks that read the logs.

    Args:
        evaluators: List of `keras_vit.evaluators.base.Evaluator`, or `Every`.
        report_steps: Number of steps in an epoch; with `Every` only.
        total_steps: Number of steps of the training; with `Every` only.
        model: The model to evaluate, if not the one that is trained; it shares the weights.
    """

    def __init__(self, evaluators, report_steps=1, total_steps=None, model=None):
        super().__init__()
        check_evaluators(evaluators)
        self.evaluators = list(evaluators)
        self.report_steps = report_steps
        self.total_steps = total_steps
        self._evaluated = model

    def on_epoch_end(self, epoch, logs=None):
        model = self.model if self._evaluated is None else self._evaluated
        step = (epoch + 1) * self.report_steps
        if self.total_steps is not None:
            step = min(step, self.total_steps)
        with averaged_weights(self.model):
            for evaluator in self.evaluators:
                if isinstance(evaluator, Every):
                    if not evaluator.is_due(step, self.total_steps, self.report_steps):
                        continue
                    evaluator = evaluator.evaluator
                for key, value in evaluator.run(model).items():
                    logs[f"{evaluator.name}/{key}"] = float(value)
                    if evaluator.name == "validation":
                        logs[f"val_{key}"] = float(value)


class Validation(Evaluate):
    """`Evaluate` with accuracy and loss on a split, each image counted once.

    Keras's own `validation_data` weighs a padded last batch like a full one.

    Args:
        info: A `DatasetInfo`.
        split: Name of the split.
        batch_size: Images in one call of the model.
        between: Called before each batch, `ExactResume.check_signals` for example; or None.
    """

    def __init__(self, info, split, batch_size, between=None):
        options = {"dataset": info, "batch_size": batch_size, "between": between}
        super().__init__([Classification(split, name="validation", **options)])


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal's stderr, else a line in the log at the end of each epoch.

    Nothing goes to stdout, which belongs to results (Keras's own bar is written there).

    Args:
        total_steps: number of steps of the training.
        title: what is being done.
        start_step: number of steps that were done before, by another process.
        waiting: a `keras_vit.data.input_wait.WaitingShare` over the data, whose share is shown, or
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
        numbers = {
            name: f"{float(value):.4g}"
            for name, value in (logs or {}).items()
            if not name.startswith("validation/")  # there as `val_` too
        }
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
