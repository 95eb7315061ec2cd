"""What can go wrong around a training: its folder, its clock, its data."""

import os
import pathlib
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.errors import CheckpointError
from keras_vit.training import run_folder as folders
from keras_vit.training.callbacks import Evaluate
from keras_vit.training.recipe import Recipe
from keras_vit.training.resume.exact_resume import ExactResume
from keras_vit.training.resume.state_file import State, StateFolder
from keras_vit.training.run import pretrain
from tests import tiny

NOBODY = 65534


class Stop(Exception):
    """Stands for a process that is killed."""


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    return model


def batches(num_batches=None):
    data = tf.data.Dataset.from_tensors((np.ones((4, 2), "float32"), np.ones((4, 1), "float32")))
    return data.repeat(num_batches)


def fit(folder, data, *, epochs=2, callbacks=(), **arguments):
    folders.release(folder)
    model, resume = make_model(), ExactResume(folder, save_steps=1, **arguments)
    resume.restore(model, data)
    model.fit(
        data,
        epochs=epochs,
        initial_epoch=resume.epoch,
        steps_per_epoch=3,
        callbacks=[*callbacks, resume],
        verbose=0,
    )
    return model, resume


def test_folder_that_is_deleted_is_made_again_and_the_run_ends(digits_dir, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    recipe = Recipe(
        steps=4,
        batch_size=8,
        report_steps=2,
        **tiny.RECIPE,
    )

    original = Evaluate.on_epoch_end

    def delete(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch == 0:
            shutil.rmtree(workdir)

    monkeypatch.setattr(Evaluate, "on_epoch_end", delete)
    result = pretrain(
        *("digits/upstream", workdir),
        recipe=recipe,
        data_dir=digits_dir,
        progress=False,
        checkpoint_steps=1,
    )
    assert {path.name for path in workdir.iterdir()} == {*folders.FILES, folders.MARKER}
    assert all(path.stat().st_size for path in result.files.values())


def without_rights(root, work):
    """What a process that may not write everywhere, as root may, returns as text.

    `root` is its `/`, since pytest's own folders are closed to it.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(root)
            if os.geteuid() == 0:
                os.chroot(root)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                root = pathlib.Path("/")
            os.write(write, work(root).encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def closed(tmp_path):
    """A folder with the folder `state`, of two states, neither of which may be written."""
    states = StateFolder(tmp_path / "state")
    for step in (1, 2):
        states.write(State(step=step, facts={}, arrays={"model/0": np.ones(3, "float32")}))
    folders.mark(tmp_path)
    os.chmod(states.folder, 0o555)
    os.chmod(tmp_path, 0o555)
    yield tmp_path
    os.chmod(tmp_path, 0o755)
    os.chmod(states.folder, 0o755)


def test_folder_that_cannot_be_written_is_refused_before_the_work(closed):
    def begin(root):
        ExactResume(root / "state")

    def begin_a_run(root):
        with folders.new_run(root / "run"):
            pass

    def begin_a_run_there(root):
        with folders.new_run(root):
            pass

    message = without_rights(closed, begin)
    assert message.startswith("PermissionError: ")
    assert "states cannot be written there" in message
    assert message.endswith("state'")
    for work in (begin_a_run, begin_a_run_there):
        assert without_rights(closed, work).startswith("PermissionError: ")
    assert sorted(path.name for path in closed.iterdir()) == [folders.MARKER, "state"]


def test_folder_that_is_closed_later_keeps_its_states(closed):
    def write(root):
        state = State(step=3, facts={}, arrays={"model/0": np.ones(3, "float32")})
        try:
            StateFolder(root / "state").write(state)
        except CheckpointError as error:
            return str(error)
        return "written"

    message = without_rights(closed, write)
    assert "step_00000003.npz" in message
    assert "Permission denied" in message
    states = StateFolder(closed / "state")
    assert states.newest().step == 2
    assert list(states.paths()) == [2, 1]


def test_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    class Jump(keras.callbacks.Callback):
        """Sets the clock back by ten years, and the newest state's time to long ago."""

        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:
                monkeypatch.setattr(time, "time", lambda: 1.0)
                for path in StateFolder(tmp_path / "b").paths().values():
                    os.utime(path, (step := int(path.stem[5:]), 1e9 - 1e6 * step))
            if self.model.optimizer.iterations == 5:
                raise Stop

    expected, before = fit(tmp_path / "a", batches())
    with pytest.raises(Stop):
        fit(tmp_path / "b", batches(), callbacks=[Jump()])
    assert next(iter(StateFolder(tmp_path / "b").paths())) == 4
    received, after = fit(tmp_path / "b", batches())
    assert after.history == before.history
    assert 0 < after.seconds < 60
    for weight, other in zip(received.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize(("num_batches", "epoch"), [(0, 0), (4, 1)])
def test_data_that_end_before_their_epoch_are_an_error(num_batches, epoch, tmp_path):
    received = f"{num_batches % 3} batches in epoch {epoch}, of 3"
    with pytest.raises(ValueError, match=f"enough for `steps_per_epoch`.* {received}"):
        fit(tmp_path, batches(num_batches))


def test_epochs_that_are_none_are_no_training(tmp_path):
    model, resume = fit(tmp_path, batches(), epochs=0)
    assert (resume.step, resume.history) == (0, [])
    assert not StateFolder(tmp_path).paths()
    assert model.optimizer.iterations == 0
