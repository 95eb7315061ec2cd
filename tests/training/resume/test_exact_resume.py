"""A training that is stopped and given again ends with the bits of one that was not."""

import json
import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.batches import make_options
from keras_vit.errors import CheckpointError
from keras_vit.training import run_folder as folders
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.resume.exact_resume import ExactResume
from keras_vit.training.resume.state_file import StateFolder, capture
from tests.training.in_threads import run_workers

STEPS, EPOCHS = 4, 3


class Stop(Exception):
    """Stands for a process that is killed."""


class At(keras.callbacks.Callback):
    """Does something at one moment of the training."""

    def __init__(self, moment, step, action):
        super().__init__()
        self.step = step
        self.count = 0
        setattr(self, moment, self._maybe)
        self.action = action

    def _maybe(self, *_, **__):
        self.count += 1
        if self.count == self.step:
            self.action()


def stop():
    raise Stop


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dropout(0.3), keras.layers.Dense(3, name="dense")]
    )
    model.compile(
        keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        run_eagerly=True,  # nothing is traced; the trials of tools/kill_trials.py are
    )
    return model


def batches(start_step):
    def batch(step):
        x = tf.random.stateless_normal((8, 6), tf.stack([step, 0]))
        return x, tf.random.stateless_uniform((8,), tf.stack([step, 1]), 0, 3, tf.int32)

    dataset = tf.data.Dataset.range(start_step, 2**40).map(batch)
    return dataset.with_options(make_options())


def train(folder, others=(), total_steps=None, model=None, **arguments):
    """`(model, resume)` after a training in a new process, as far as the two can tell."""
    if model is None:
        release_all()
        model = make_model()
    resume = ExactResume(folder, total_steps=total_steps, **arguments)
    others = list(others)
    if total_steps is not None:
        others.append(StopAfter(total_steps, resume.step))
    resume.restore(model, batches(resume.step))
    model.resume = resume
    model.fit(
        batches(resume.step),
        epochs=EPOCHS,
        initial_epoch=resume.epoch,
        steps_per_epoch=STEPS,
        validation_data=batches(0).take(2),
        callbacks=[*others, resume],
        verbose=0,
    )
    return model, resume


def release_all():
    for held in list(folders._held):
        folders.release(held)


def train_together(folder, others=((), ()), **arguments):
    """What `train` returns or raises in each of two workers, which have the same batches."""
    release_all()
    models = [make_model(), make_model()]

    def work(workers):
        others_of_worker = others[workers.index]
        model = models[workers.index]
        return train(folder, others_of_worker, model=model, workers=workers, **arguments)

    return run_workers(work)


def assert_same(received, expected):
    assert received[1].history == expected[1].history
    assert len(received[1].history) == EPOCHS
    expected = capture(expected[0])
    received = capture(received[0])
    assert set(received) == set(expected)
    for key, array in received.items():
        np.testing.assert_array_equal(array, expected[key])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize(
    ("moment", "count", "save_steps"),
    [
        ("on_train_batch_begin", 1, 1),
        ("on_train_batch_end", 3, 1),
        ("on_train_batch_begin", 6, None),
        ("on_train_batch_begin", 6, 3),
        ("on_train_batch_end", 8, 1),
        ("on_test_batch_end", 3, 3),
        ("on_epoch_end", 2, None),
        ("on_train_end", 1, 3),
    ],
)
def test_a_training_that_was_killed_ends_with_the_same_bits(
    moment, count, save_steps, uninterrupted, tmp_path
):
    with pytest.raises(Stop):
        train(tmp_path, [At(moment, count, stop)], save_steps=save_steps)
    assert_same(train(tmp_path, save_steps=save_steps), uninterrupted)


def test_a_training_that_ends_inside_an_epoch_resumes_exactly(tmp_path):
    expected = train(tmp_path / "a", total_steps=10)
    with pytest.raises(Stop):
        train(tmp_path / "b", [At("on_train_batch_end", 9, stop)], total_steps=10, save_steps=1)
    assert_same(train(tmp_path / "b", total_steps=10), expected)


def test_without_the_random_generators_the_bits_are_others(uninterrupted, tmp_path):
    """The negative control of the test above."""
    with pytest.raises(Stop):
        train(tmp_path, [At("on_train_batch_end", 6, stop)], save_steps=1)
    (path, *_) = StateFolder(tmp_path).paths().values()
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    model = make_model()
    (place,) = (i for i, v in enumerate(model.variables) if "seed" in v.path)
    arrays[f"model/{place}"] = capture(model)[f"model/{place}"]
    np.savez(path, **arrays)
    resumed, _ = train(tmp_path)
    kernel = keras.ops.convert_to_numpy(resumed.get_layer("dense").kernel)
    assert (kernel != uninterrupted[0].get_layer("dense").kernel.numpy()).any()


@pytest.mark.parametrize(
    ("moment", "count", "step"),
    [
        ("on_train_batch_end", 6, 6),
        ("on_train_batch_end", 8, 7),  # the evaluation that follows is not waited for
        ("on_test_batch_end", 3, 7),
        ("on_epoch_end", 2, 7),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_ends_the_process(
    number, moment, count, step, uninterrupted, tmp_path
):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    raised = {signal.SIGTERM: SystemExit, signal.SIGINT: KeyboardInterrupt}[number]
    with pytest.raises(raised) as caught:
        train(tmp_path, [At(moment, count, lambda: signal.raise_signal(number))])
    assert number == signal.SIGINT or caught.value.code == 143
    assert next(iter(StateFolder(tmp_path).paths())) == step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    assert_same(train(tmp_path), uninterrupted)


def test_a_signal_after_a_fit_that_failed_is_none_of_ours(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(Stop):
        train(tmp_path, [At("on_train_batch_end", 1, stop)])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_wait(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(tmp_path, [At("on_train_batch_end", 6, twice)])
    assert next(iter(StateFolder(tmp_path).paths())) == STEPS


def test_a_training_in_another_thread_takes_no_signals(uninterrupted, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert_same(results[0], uninterrupted)


def test_another_configuration_is_refused_and_named(tmp_path):
    config = {"recipe": {"learning_rate": 0.1, "steps": 3}, "class_names": ["a", "b"]}
    with pytest.raises(Stop):
        train(tmp_path, [At("on_epoch_end", 2, stop)], config=config)
    other = {"recipe": {"learning_rate": 0.2, "steps": 3}, "class_names": ["a", "c"]}
    with pytest.raises(FileExistsError) as caught:
        ExactResume(tmp_path, config=other)
    assert "`recipe.learning_rate` was 0.1 and is 0.2" in str(caught.value)
    assert "`class_names[1]` was 'b' and is 'c'" in str(caught.value)
    assert ExactResume(tmp_path, config=config).step == STEPS
    assert ExactResume(tmp_path, config=other, overwrite=True).step == 0
    assert not StateFolder(tmp_path).paths()


def test_another_model_is_refused_and_nothing_assigned(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, [At("on_epoch_end", 2, stop)])
    other = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dropout(0.3), keras.layers.Dense(4, name="dense")]
    )
    other.compile(
        keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    before = capture(other)
    with pytest.raises(ValueError, match="same model, optimizer and metrics"):
        ExactResume(tmp_path).restore(other, batches(0))
    after = capture(other)
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array)


def test_a_state_that_was_not_restored_is_an_error(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, [At("on_epoch_end", 2, stop)])
    with pytest.raises(ValueError, match=r"call `resume.restore\(model, data\)`"):
        make_model().fit(
            batches(0), steps_per_epoch=4, callbacks=[ExactResume(tmp_path)], verbose=0
        )


def test_another_first_epoch_is_refused(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, [At("on_epoch_end", 2, stop)])
    model, resume = make_model(), ExactResume(tmp_path)
    resume.restore(model, batches(resume.step))
    with pytest.raises(ValueError, match="must be given `initial_epoch=1`"):
        model.fit(batches(0), epochs=2, steps_per_epoch=4, callbacks=[resume], verbose=0)


@pytest.mark.parametrize("keys", [{"save_steps": 0}, {"total_steps": 0}, {"keep": 1}])
def test_numbers_out_of_range_are_refused(keys, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(keys))}` must be"):
        ExactResume(tmp_path, **keys)


def test_a_state_that_is_not_finite_is_never_written(tmp_path):
    model = make_model()

    def poison():
        model.get_layer("dense").kernel.assign(np.full((6, 3), np.nan))

    resume = ExactResume(tmp_path, save_steps=1)
    model.fit(
        batches(0),
        epochs=2,
        steps_per_epoch=STEPS,
        callbacks=[At("on_train_batch_end", 3, poison), resume],
        verbose=0,
    )
    assert list(StateFolder(tmp_path).paths()) == [2, 1]


def replace_by_a_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("")


def test_a_folder_that_goes_is_an_error_after_three_attempts(tmp_path):
    folder = tmp_path / "state"
    with pytest.raises(CheckpointError, match="cannot be written: .*MB are needed"):
        train(
            folder, [At("on_train_batch_end", 3, lambda: replace_by_a_file(folder))], save_steps=1
        )


def test_what_keras_callbacks_remember_is_given_back(tmp_path):
    def make(folder):
        path = str(folder / "best.weights.h5")
        return [
            keras.callbacks.ModelCheckpoint(
                path, monitor="loss", save_best_only=True, save_weights_only=True
            ),
            keras.callbacks.EarlyStopping(monitor="val_accuracy", patience=10),
        ]

    callbacks = make(tmp_path)
    with pytest.raises(Stop):
        train(tmp_path, [*callbacks, At("on_epoch_end", 3, stop)], callbacks=callbacks)
    again = make(tmp_path)
    model = make_model()
    resume = ExactResume(tmp_path, callbacks=again)
    resume.restore(model, batches(resume.step))
    best = min(report["loss"] for report in resume.history)
    model.fit(
        batches(resume.step),
        epochs=2,
        initial_epoch=2,
        steps_per_epoch=STEPS,
        callbacks=[*again, resume],
        verbose=0,
    )
    assert again[0].best == best
    assert again[1].best == max(report["val_accuracy"] for report in resume.history)


def test_the_history_is_json_and_has_every_epoch(uninterrupted):
    resume = uninterrupted[1]
    assert json.loads(json.dumps(resume.history)) == resume.history
    assert set(resume.history[0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert resume.step == EPOCHS * STEPS
    assert resume.seconds > 0


def test_another_process_is_kept_out(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        folders._held.clear()
        folders.hold(tmp_path)
        os.write(write, b"1")
        signal.pause()
        os._exit(0)
    try:
        os.read(read, 1)
        with pytest.raises(BlockingIOError, match="another process is training in it"):
            ExactResume(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ExactResume(tmp_path).step == 0


def test_workers_that_train_together_end_with_the_same_bits(uninterrupted, tmp_path):
    for result in train_together(tmp_path, save_steps=3):
        assert_same(result, uninterrupted)
    assert list(StateFolder(tmp_path).paths()) == [STEPS * EPOCHS, 11]


@pytest.mark.parametrize(
    ("signalled", "moment", "count", "step"),
    [
        (1, "on_train_batch_begin", 1, 1),
        (0, "on_train_batch_end", 6, 6),
        (1, "on_train_batch_end", 8, 7),
        (0, "on_test_batch_end", 3, 7),
        (1, "on_test_batch_end", 3, 7),
        (1, "on_epoch_end", 2, 8),
    ],
)
def test_a_signal_to_one_worker_stops_all_after_the_same_step(
    signalled, moment, count, step, uninterrupted, tmp_path
):
    at = At(moment, count, lambda: None)
    at.action = lambda: setattr(at.model.resume._signals, "received", signal.SIGTERM)
    others = [(), ()]
    others[signalled] = (at,)
    outcomes = train_together(tmp_path, others, save_steps=100)
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [143, 143]
    assert next(iter(StateFolder(tmp_path).paths())) == step
    for result in train_together(tmp_path):
        assert_same(result, uninterrupted)


def test_a_state_that_the_chief_cannot_write_ends_all_workers(tmp_path):
    folder = tmp_path / "state"
    others = ([At("on_train_batch_end", 3, lambda: replace_by_a_file(folder))], ())
    chief, other = train_together(folder, others, save_steps=1)
    for error in (chief, other):
        assert isinstance(error, CheckpointError)
        assert "MB are needed" in str(error)


def test_a_state_of_two_workers_goes_on_in_one_process(uninterrupted, tmp_path):
    stop_both = [[At("on_train_batch_end", 6, stop)] for _ in range(2)]
    outcomes = train_together(tmp_path, stop_both, save_steps=1)
    assert [type(outcome) for outcome in outcomes] == [Stop, Stop]
    assert_same(train(tmp_path), uninterrupted)
