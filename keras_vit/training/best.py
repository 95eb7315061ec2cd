"""Early stopping, and the best weights of a training."""

import math

import keras
import numpy as np

from keras_vit.training.optimizers import averaged_weights

# What is better where it is lower, by the end of its key.
MINIMISED = ("loss", "mse", "mae", "ece", "error")


def mode_of(monitor):
    """`"min"` or `"max"`: what is better of a key that evaluators or metrics report.

    >>> mode_of("validation/accuracy"), mode_of("val_loss"), mode_of("loss")
    ('max', 'min', 'min')
    """
    return "min" if monitor.rpartition("/")[2].removeprefix("val_") in MINIMISED else "max"


class Best(keras.callbacks.Callback):
    """Keeps the weights of the best report, and ends a training that gets no better.

    As Keras's `EarlyStopping`, whose words these are; with what an evaluator measures in the logs,
    on the moving average of the weights where the optimizer keeps one.  Best value, patience and
    best weights are part of a state (`keras_vit.training.resume.exact_resume.ExactResume`).

    Args:
        monitor: Key of the logs, such as `"validation/accuracy"`.
        mode: `"min"`, `"max"`, or None for `"min"` of losses and errors and else `"max"`.
        patience: Number of reports in a row without improvement that ends the training; None never
            ends it.
        restore_best_weights: Whether the best weights are kept, and given back by `restore`.

    Attributes:
        best: The best value, or None.
        best_epoch: The report that it is of, counted from 0.
        wait: Number of reports since then.
        kept: The best weights, a dict of arrays; empty where none are kept.

    Raises:
        ValueError: In `fit`, if the logs have no such key.
    """

    def __init__(self, monitor, mode=None, patience=None, restore_best_weights=True):
        super().__init__()
        self.monitor = monitor
        self.mode = mode or mode_of(monitor)
        self.patience = patience
        self.restore_best_weights = restore_best_weights
        self.best, self.best_epoch, self.wait, self.kept = None, 0, 0, {}

    @property
    def is_over(self):
        """Whether the training has ended, perhaps in a process before."""
        return self.patience is not None and self.wait >= max(self.patience, 1)

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in logs:
            evaluator = self.monitor.rpartition("/")[0]
            if evaluator and not any(key.startswith(f"{evaluator}/") for key in logs):
                return  # one that does not run with each report
            raise ValueError(
                f"`monitor` must be one of {', '.join(sorted(logs))}. Received: {self.monitor!r}"
            )
        value = float(logs[self.monitor])
        if self._is_better(value):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            if self.restore_best_weights:
                with averaged_weights(self.model):
                    self.kept = _weights(self.model)
            return
        self.wait += 1
        if self.is_over:
            self.model.stop_training = True

    def _is_better(self, value):
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        return value < self.best if self.mode == "min" else value > self.best

    def restore(self, model):
        """Gives a model the best weights, if there are any."""
        for place, array in self.kept.items():
            variable = model.variables[int(place)]
            dtype = np.dtype(keras.backend.standardize_dtype(variable.dtype))
            variable.assign(array.view(dtype) if array.dtype == np.dtype("V2") else array)

    def rows(self, rows):
        """The reports up to that of the weights that `restore` gives back."""
        return rows[: self.best_epoch + 1] if self.kept else rows


def _weights(model):
    """Place -> value of each variable but the states of random generators, which go on."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    return {
        str(place): np.array(keras.ops.convert_to_numpy(variable))
        for place, variable in enumerate(model.variables)
        if "int" not in keras.backend.standardize_dtype(variable.dtype)
    }


def of_run(recipe, names):
    """The callback that a recipe asks for, in a list, empty for none.

    Args:
        recipe: `Recipe`.
        names: Of the evaluators of the run.

    Raises:
        ValueError: For a `monitor` of an evaluator that there is not.
    """
    if recipe.monitor is None:
        return []
    evaluator = recipe.monitor.rpartition("/")[0]
    if (evaluator or "/" in recipe.monitor) and evaluator not in names:
        raise ValueError(
            "`monitor` must be NAME/KEY, the name one of the evaluators of the run: "
            f"{', '.join(names) or 'none, as there is no validation split'}. "
            f"Received: {recipe.monitor!r}"
        )
    keeps = recipe.restore_best_weights in (None, True)
    return [Best(recipe.monitor, recipe.mode, recipe.patience, keeps)]
