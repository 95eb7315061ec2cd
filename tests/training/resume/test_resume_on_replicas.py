"""Exact resumption where each replica of a strategy has values of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.batches import make_options
from keras_vit.distribution.strategy import mirrored_strategy
from keras_vit.training import run_folder as folders
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import AdamW
from keras_vit.training.resume.exact_resume import ExactResume
from keras_vit.training.resume.state_file import StateFolder, capture, restore
from tests import tiny

pytestmark = pytest.mark.tensorflow_only
STEPS, EPOCHS = 3, 2


class Stop(keras.callbacks.Callback):
    """Stands for a process that is killed at a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.step:
            raise InterruptedError


def make_model():
    with mirrored_strategy().scope():
        model = tiny.make_model(dropout=0.3)
        optimizer = AdamW(0.01, use_ema=True, ema_momentum=0.9)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer, SoftmaxCrossentropy(), metrics=[accuracy])
    return model


def batches(start_step):
    def batch(step):
        images = tf.random.stateless_normal((6, 8, 8, 3), tf.stack([step, 0]))
        return images, tf.random.stateless_uniform((6,), tf.stack([step, 1]), 0, 3, tf.int32)

    dataset = tf.data.Dataset.range(start_step, 2**40).map(batch)
    return dataset.with_options(make_options())


def train(folder, stop_at=None):
    """`(model, resume)` after a training outside of the strategy's scope."""
    folders.release(folder)
    model, resume = make_model(), ExactResume(folder, save_steps=1)
    data = batches(resume.step)
    resume.restore(model, data)
    model.fit(
        data,
        epochs=EPOCHS,
        initial_epoch=resume.epoch,
        steps_per_epoch=STEPS,
        callbacks=[*([] if stop_at is None else [Stop(stop_at)]), resume],
        verbose=0,
    )
    return model, resume


def replica_values(variables):
    """The values on the replicas, of each variable."""
    return [[part.numpy() for part in variable.value.values] for variable in variables]


def everything(model):
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def assert_same(model, expected):
    received, expected = (replica_values(everything(each)) for each in (model, expected))
    for variable, parts, others in zip(everything(model), received, expected, strict=True):
        assert len(parts) == 2
        np.testing.assert_array_equal(parts, others, err_msg=variable.path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"))


def test_training_on_replicas_that_was_killed_ends_with_the_same_bits(uninterrupted, tmp_path):
    with pytest.raises(InterruptedError):
        train(tmp_path, stop_at=6)  # in the middle of the second epoch, after its second step
    model, resume = train(tmp_path)
    assert resume.history == uninterrupted[1].history
    assert_same(model, uninterrupted[0])


def test_states_have_the_metrics_of_each_replica(uninterrupted):
    model, resume = uninterrupted
    shared = [*model.variables, *model.optimizer.variables]
    for variable, parts in zip(shared, replica_values(shared), strict=True):
        np.testing.assert_array_equal(*parts, err_msg=variable.path)
    (state, *_) = StateFolder(resume._states.folder).paths().values()
    with np.load(state) as file:
        keys = [key for key in file.files if key.startswith("metrics/")]
        assert sorted(keys) == sorted(
            f"metrics/{place}/{replica}"
            for place in range(len(model.metrics_variables))
            for replica in range(2)
        )
        # What each replica has seen is its own.
        assert any(
            file[f"metrics/{place}/0"] != file[f"metrics/{place}/1"]
            for place in range(len(model.metrics_variables))
        )


def test_states_of_replicas_are_restored_where_they_were(uninterrupted):
    arrays = capture(uninterrupted[0])
    model = make_model()
    with mirrored_strategy().scope():
        model._symbolic_build(data_batch=(np.zeros((6, 8, 8, 3), "float32"), np.zeros(6, "int32")))
    restore(model, arrays)
    assert_same(model, uninterrupted[0])
    after = capture(model)
    for key, array in arrays.items():
        np.testing.assert_array_equal(after[key], array, err_msg=key)
