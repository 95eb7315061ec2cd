"""A state goes from any number of replicas to any other."""

import keras
import numpy as np
import pytest

from keras_vit.distribution.workers import Workers
from keras_vit.training.optimizers import SGD
from keras_vit.training.resume.reshard import adapted, capture_all
from keras_vit.training.resume.state_file import capture, restore
from tests.training.in_threads import run_workers


def make_model(seed, momentum_dtype="float32"):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")])
    model.compile(
        SGD(0.1, momentum_dtype=momentum_dtype),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        run_eagerly=True,
    )
    model._symbolic_build(data_batch=(np.zeros((2, 2)), np.zeros((2,))))
    return model


def trained(seed, **options):
    model = make_model(seed, **options)
    rng = np.random.default_rng(seed)
    model.fit(rng.normal(size=(4, 2)), rng.integers(0, 3, 4), batch_size=4, verbose=0)
    return model


def per_replica(arrays, number):
    """The state as so many replicas would have it, the k-th of them k times the counts."""
    result = {}
    for key, array in arrays.items():
        if not key.startswith("metrics/"):
            result[key] = array
            continue
        for replica in range(number):
            result[f"{key}/{replica}"] = array * np.float32(replica + 1)
    return result


def assert_same(received, expected):
    assert set(received) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(received[key], array, err_msg=key)


def test_one_device_takes_its_own_state_unchanged():
    model = trained(0)
    arrays = capture(model)
    assert_same(adapted(arrays, model, Workers()), arrays)
    assert_same(capture_all(model, Workers()), arrays)


def test_one_device_drops_the_metrics_of_replicas():
    model = trained(0)
    arrays = capture(model)
    kept = {key: array for key, array in arrays.items() if not key.startswith("metrics/")}
    received = adapted(per_replica(arrays, 3), model, Workers())
    assert_same(received, kept)
    other = make_model(1)
    restore(other, received)
    assert_same(
        {k: a for k, a in capture(other).items() if k in kept},
        kept,
    )
    # One of two processes of JAX, which count together, takes those of one device.
    assert_same(adapted(arrays, model, Workers(index=1, number=2)), arrays)


@pytest.mark.tensorflow_only
def test_two_replicas_keep_theirs_and_drop_those_of_another_number():
    import tensorflow as tf

    from keras_vit.distribution.strategy import place

    single = capture(trained(0))
    with place("mirrored").scope():
        model = make_model(0)
        strategy = tf.distribute.get_strategy()
        for variable in model.metrics_variables:
            for replica, part in enumerate(strategy.experimental_local_results(variable.value)):
                part.assign(tf.fill(part.shape, float(replica + 1)))
        arrays = capture(model)
        assert {"metrics/0/0", "metrics/0/1"} <= set(arrays)
        assert_same(adapted(arrays, model, Workers()), arrays)
        received = adapted(per_replica(single, 3), model, Workers())
        assert set(received) == {key for key in arrays if not key.startswith("metrics/")}


@pytest.mark.tensorflow_only
def test_each_worker_gets_back_what_its_replicas_had():
    """Two workers of two replicas each, as threads that share one model."""
    from keras_vit.distribution.strategy import place

    with place("mirrored").scope():
        model = make_model(0)
    single = capture(make_model(0))
    saved = per_replica(single | {"metrics/0": np.float32(1.0)}, 4)

    def work(workers):
        arrays = adapted(saved, model, workers)
        return {key: array for key, array in arrays.items() if key.startswith("metrics/0/")}

    assert run_workers(work) == [
        {"metrics/0/0": 1.0, "metrics/0/1": 2.0},
        {"metrics/0/0": 3.0, "metrics/0/1": 4.0},
    ]
    together = run_workers(lambda workers: capture_all(model, workers))
    assert set(together[0]) == set(saved)
    assert set(together[1]) == {key for key in saved if key.startswith("metrics/")}


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_momentum_changes_its_dtype_and_no_bit(dtypes):
    before, after = dtypes
    arrays = capture(trained(0, momentum_dtype=before))
    rounded = {
        key: array.astype("bfloat16").astype("float32")
        if key.startswith("optimizer/") and array.dtype == np.float32 and array.ndim
        else array
        for key, array in arrays.items()
    }
    # As a file has it.
    stored = {k: a.view("V2") if a.dtype == "bfloat16" else a for k, a in rounded.items()}
    model = make_model(1, momentum_dtype=after)
    restore(model, adapted(stored, model, Workers()))
    for key, array in capture(model).items():
        np.testing.assert_array_equal(
            array.astype("float32"), rounded[key].astype("float32"), err_msg=key
        )


def test_a_momentum_that_bfloat16_does_not_hold_is_refused():
    arrays = capture(trained(0))
    model = make_model(1, momentum_dtype="bfloat16")
    with pytest.raises(ValueError, match="momentum is bfloat16.* and float32.* in the state"):
        restore(model, adapted(arrays, model, Workers()))
