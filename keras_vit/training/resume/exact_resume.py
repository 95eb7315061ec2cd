"""Exact resumption: a training that was stopped anywhere goes on as if nothing had happened."""

import contextlib
import dataclasses
import json
import math
import signal
import time

import keras
import numpy as np
from absl import logging

from keras_vit.distribution.signals import SignalWatch
from keras_vit.distribution.workers import Workers
from keras_vit.errors import CheckpointError
from keras_vit.training import run_folder as folders
from keras_vit.training.resume.choose_state import choose_state
from keras_vit.training.resume.reshard import adapted, capture_all
from keras_vit.training.resume.state_file import State, StateFolder, restore
from keras_vit.version import __version__

# A training whose states cannot be written so many times in a row ends.
MAX_FAILED_WRITES = 3
# What Keras's own callbacks know of the past.
_REMEMBERED = {
    "Best": ("best", "best_epoch", "wait"),  # and its weights, `kept`
    "EarlyStopping": ("best", "best_epoch", "wait"),
    "ModelCheckpoint": ("best",),
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
}
# Group of a state: the arrays that callbacks keep.
_KEPT = "kept"
# Ends an epoch that began in its middle; whoever wants to stop altogether replaces it by True.
_END_OF_EPOCH = "end of epoch"


def remembers(callback):
    """Whether a callback's best value and patience can be saved and given back."""
    return type(callback).__name__ in _REMEMBERED


class ExactResume(keras.callbacks.Callback):
    """Saves everything that a training is made of, and makes the next process go on from there.

    That is: the model's variables and its random generators, the optimizer's with its moments, its
    count of steps and its moving averages, the metrics of the epoch so far, the step, and what was
    reported.  With data that are a function of the step (`keras_vit.data.pipeline`) a training that
    was stopped at any moment ends with the same bits as one that was not, on the same machine.

        resume = ExactResume("runs/flowers/state", save_steps=500)
        data = training_dataset(..., start_step=resume.step)
        resume.restore(model, data)
        model.fit(
            data,
            epochs=20,
            initial_epoch=resume.epoch,
            steps_per_epoch=1000,
            callbacks=[..., resume],
        )

    Put it last, so that it sees what the others have done.  It saves every `save_steps` steps, at
    the end of each epoch, and after SIGTERM and Ctrl-C, upon which the process ends with exit code
    143 or 130; a second one does not wait.  Where an evaluation is interrupted, the state is that
    of the step before the last one of its epoch.  A state with numbers that are not finite is never
    written.  One that cannot be written, on a full disk, is an error in the log and, the third time
    in a row, of the training; those before are still there.

    Of several workers the chief writes, and chooses the state that all of them read; a signal to
    any of them ends all after the same step.

    Args:
        folder: where the states are, two files or more; it is made if needed.  One training at a
            time can use it.  Several workers share it.
        save_steps: number of steps between two states; None saves at the ends of epochs only.
        keep: number of states that are kept, at least 2.
        config: what the training is, a dict that JSON can hold; a state of another one is refused.
        overwrite: whether states of another training are removed instead.
        total_steps: where the training ends in the middle of an epoch, at which step.
        callbacks: Keras's `EarlyStopping`, `ModelCheckpoint` and `ReduceLROnPlateau`, whose best
            value and patience are saved and given back.
        workers: those that train together, `keras_vit.distribution.strategy.place(...).workers`;
            None for one process.

    Attributes:
        step: number of steps that were trained.
        epoch: number of epochs that were ended.
        history: the logs of each of those, a list of dicts.
        seconds: that the training took up to now, without what was lost.

    Raises:
        FileExistsError: if the folder has the state of a training with another `config`.
        BlockingIOError: if another process uses the folder.
        PermissionError: if the folder cannot be written.
        CheckpointError: if there are states and none can be read, or a worker does not see what the
            chief sees.
        TrainingError: if any of these happens to another worker.
        ValueError: for numbers out of range, or a `config` other than the chief's; in `fit`, for
            another `initial_epoch` than `epoch`, a state of another model, or data that end
            before their epoch.
    """

    def __init__(
        self,
        folder,
        *,
        save_steps=None,
        keep=2,
        config=None,
        overwrite=False,
        total_steps=None,
        callbacks=(),
        workers=None,
    ):
        super().__init__()
        for name, value in (("save_steps", save_steps), ("total_steps", total_steps)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {value}")
        for callback in callbacks:
            if not remembers(callback):
                raise ValueError(
                    f"`callbacks` must be of {', '.join(_REMEMBERED)}. Received: {callback!r}"
                )
        self.save_steps = save_steps
        self.total_steps = total_steps
        self._config = json.loads(json.dumps(config))
        self._callbacks = list(callbacks)
        self._workers = workers or Workers()
        self._states = StateFolder(folder, keep)
        # They decide when the workers speak to each other.
        options = {"save_steps": save_steps, "total_steps": total_steps}
        self._loaded = choose_state(self._states, self._config, self._workers, overwrite, options)
        facts = {"epoch": 0, "history": [], "seconds": 0.0}
        if self._loaded is not None:
            facts = self._loaded.facts
        self.step = 0 if self._loaded is None else self._loaded.step
        self.epoch = facts["epoch"]
        self.history = [
            {name: float(value) for name, value in report.items()} for report in facts["history"]
        ]
        self._seconds_before = facts["seconds"]
        self._is_restored = False
        self._start = None
        self._saved_step = self.step
        self._failed_writes = 0
        self._is_due = False
        self._signals = None
        self._stop = None  # the signal that ends all workers
        self._before_last = None
        # What may be interrupted at once: nothing has changed yet, or `_before_last` is there.
        self._can_leave = False

    def restore(self, model, data):
        """Gives a model, its optimizer and its metrics what was saved, if there is anything.

        Args:
            model: compiled, as it was for the training that is resumed.
            data: the `tf.data.Dataset` of (images, labels) that `fit` will be given.

        Raises:
            ValueError: if the state is that of another model; nothing is assigned.
        """
        if self._loaded is None:
            return
        # TensorFlow would make the optimizer's and the metrics' variables in the first step.
        batch = keras.tree.map_structure(
            lambda spec: np.zeros([size or 1 for size in spec.shape], spec.dtype.as_numpy_dtype),
            data.element_spec,
        )
        strategy = getattr(model, "_distribute_strategy", None)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model._symbolic_build(data_batch=batch)
        arrays = self._give_kept(self._loaded.arrays)
        with self._workers.together():
            arrays = adapted(arrays, model, self._workers)
            restore(model, arrays)
        self._loaded = dataclasses.replace(self._loaded, arrays=arrays)
        self._is_restored = True

    def _give_kept(self, arrays):
        """Gives callbacks the arrays that they keep; returns the others."""
        for number, callback in enumerate(self._callbacks):
            if hasattr(callback, "kept"):
                start = f"{_KEPT}/{number}/"
                kept = [key for key in arrays if key.startswith(start)]
                callback.kept = {key.removeprefix(start): arrays[key] for key in kept}
        self._remind_callbacks()
        return {key: array for key, array in arrays.items() if not key.startswith(f"{_KEPT}/")}

    def check_signals(self):
        """Lets several workers follow a signal to one of them, as after a step.

        For callbacks that take long between two steps, `Validation` for example; all workers must
        call it.  One process follows a signal at once.
        """
        if self._workers.number > 1 and self._signals is not None and self._is_stopping():
            self._leave_if_possible()

    @property
    def seconds(self):
        if self._start is None:
            return self._seconds_before
        return self._seconds_before + time.perf_counter() - self._start

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()
        if not self.params.get("steps"):
            raise ValueError(
                "a training that resumes needs to know the length of an epoch. Received: no "
                "`steps_per_epoch`; pass it to `fit`"
            )
        if self._loaded is not None:
            if not self._is_restored:
                raise ValueError(
                    "what was saved must be given to the model before `fit`. Received: a model "
                    "without it; call `resume.restore(model, data)`"
                )
            self._remind_callbacks()
            logging.info("going on from step %d (%s)", self.step, self._states.folder)
        self._can_leave = True
        # Several workers leave where they have agreed to.
        act_now = self._leave_if_possible if self._workers.number == 1 else lambda: None
        self._signals = SignalWatch(self.model, act_now)
        self._signals.install()

    def _remind_callbacks(self):
        remembered = self._loaded.facts["callbacks"]
        for callback, values in zip(self._callbacks, remembered, strict=True):
            for name, value in values.items():
                setattr(callback, name, float(value) if isinstance(value, str) else value)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self.epoch:
            raise ValueError(
                f"`fit` must be given `initial_epoch={self.epoch}` (`resume.epoch`). "
                f"Received: {epoch}"
            )
        if self._loaded is not None and self.step > epoch * self.params["steps"]:
            # Those of the epoch so far; Keras has just reset them.
            restore(self.model, self._loaded.arrays, groups=("metrics",))
        self._loaded = None
        self._first = self.step
        self._end = (epoch + 1) * self.params["steps"]
        if self.total_steps is not None:
            self._end = min(self._end, self.total_steps)

    def on_train_batch_begin(self, batch, logs=None):
        is_last = self._first + batch + self.model.steps_per_execution >= self._end
        is_watching = self._signals.is_installed or self._workers.number > 1
        if is_last and is_watching and not self._can_leave:
            self._before_last = self._state(copy=True)

    def on_train_batch_end(self, batch, logs=None):
        self._can_leave = False
        self.step = self._first + batch + 1
        is_last = self.step >= self._end
        if self._is_stopping():
            self._save_and_leave(self._before_last if is_last else self._state())
        if is_last:
            if not self.model.stop_training and batch + 1 < self.params["steps"]:
                self.model.stop_training = _END_OF_EPOCH
            self._can_leave = self._before_last is not None
            if self._is_stopping():
                self._leave_if_possible()
        elif self._is_due or (
            self.save_steps is not None and self.step - self._saved_step >= self.save_steps
        ):
            self._save(self._state())

    def on_epoch_end(self, epoch, logs=None):
        if self.step < self._end and not self.model.stop_training:
            raise ValueError(
                "the data must be enough for `steps_per_epoch`, without end at best. Received: "
                f"{self.step - self._first} batches in epoch {epoch}, of {self._end - self._first}"
            )
        self._can_leave = False
        self._before_last = None
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        self.epoch += 1
        if self.model.stop_training == _END_OF_EPOCH:
            self.model.stop_training = False
        if self._is_stopping():
            self._save_and_leave(self._state())
        self._save(self._state())
        if self._is_stopping():
            self._leave()

    def on_test_batch_end(self, batch, logs=None):
        self.check_signals()

    def on_train_end(self, logs=None):
        self._can_leave = False
        self._signals.remove()
        self._loaded = None
        folders.release(self._states.folder)

    def _state(self, copy=False):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        arrays = capture_all(self.model, self._workers)
        if copy:
            arrays = {key: array.copy() for key, array in arrays.items()}
        for number, callback in enumerate(self._callbacks):
            for key, array in getattr(callback, "kept", {}).items():
                arrays[f"{_KEPT}/{number}/{key}"] = array
        facts = {
            "epoch": self.epoch,
            "history": [
                {name: _number(value) for name, value in report.items()} for report in self.history
            ],
            "seconds": self.seconds,
            "config": self._config,
            "callbacks": [_memory(callback) for callback in self._callbacks],
            "keras_vit": __version__,
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        }
        return State(step=self.step, facts=facts, arrays=arrays)

    def _save(self, state):
        """Writes a state if it can be; all workers come to know what became of it."""
        outcome = self._write(state) if self._workers.is_chief else None
        is_finite, problem = self._workers.gather(outcome)[0]
        self._is_due = not is_finite
        if not is_finite:
            return
        self._saved_step = state.step
        self._failed_writes = self._failed_writes + 1 if problem else 0
        if self._failed_writes == MAX_FAILED_WRITES:
            raise CheckpointError(self._states.folder, problem)

    def _write(self, state):
        """`(whether it is finite, why it could not be written or None)`."""
        if not state.is_finite():
            logging.warning("step %d has numbers that are not finite and is not saved", state.step)
            return False, None
        try:
            self._states.write(state)
        except CheckpointError as error:
            logging.error("step %d is not saved: %s", state.step, error)
            return True, "; ".join(error.problems)
        return True, None

    def _leave_if_possible(self):
        if self._can_leave:
            self._can_leave = False
            if self._before_last is None:
                self._leave()
            self._save_and_leave(self._before_last)

    def _save_and_leave(self, state):
        if state is not None:
            self._save(state)
        self._leave()

    def _is_stopping(self):
        """Whether any worker was sent a signal; all workers ask and hear the same."""
        received = [number for number in self._workers.gather(self._signals.received) if number]
        self._stop = signal.Signals(received[0]) if received else None
        return self._stop is not None

    def _leave(self):
        newest = next(iter(self._states.paths()), None)
        kept = "nothing was saved yet" if newest is None else f"the state of step {newest} is saved"
        if self._stop is not None:
            self._signals.received = self._stop
        logging.warning(
            "stopped by %s at step %d; %s", self._signals.received.name, self.step, kept
        )
        folders.release(self._states.folder)
        self._signals.leave(with_all=self._stop is not None)


def _memory(callback):
    """What a callback of Keras knows of the past."""
    values = {name: getattr(callback, name) for name in _REMEMBERED[type(callback).__name__]}
    return {
        name: value if value is None or isinstance(value, int) else _number(value)
        for name, value in values.items()
    }


def _number(value):
    """As JSON can hold it: text where it has no number, of a step that was not finite."""
    value = float(value)
    return value if math.isfinite(value) else str(value)
