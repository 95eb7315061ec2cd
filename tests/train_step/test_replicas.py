import contextlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.distribution.strategy import mirrored_strategy
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import SGD, AdamW, averaged_weights
from tests.tiny import make_model
from tests.train_step import replica_cases
from tests.train_step.replica_cases import examples

pytestmark = pytest.mark.tensorflow_only

# Of the whole matrix these run everywhere.
QUICK = ("partial_last_batch", "keras_global_clipnorm", "all")


@pytest.fixture(scope="module")
def strategy():
    return mirrored_strategy()


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in replica_cases.CASES
        if name not in replica_cases.OWN_MASKS
    ],
)
def test_two_replicas_come_to_what_one_device_comes_to(name, strategy):
    expected = replica_cases.run(name)
    with strategy.scope():
        received = replica_cases.run(name)
    replica_cases.assert_same(received, expected, name)


def test_dropout_differs_between_replicas_and_is_repeatable(strategy):
    images, labels = examples(8)
    runs = []
    for _ in range(2):
        with strategy.scope():
            model = make_model(dropout=0.5, stochastic_depth=0.5)
            optimizer = SGD(0.1)
        model.compile(optimizer, SoftmaxCrossentropy(), accumulation_steps=2)
        model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        runs.append([v.numpy() for v in model.variables])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)

    layer = model.get_layer("posembed_dropout")
    outputs = strategy.run(lambda: layer(keras.ops.ones((4, 100)), training=True))
    first, second = strategy.experimental_local_results(outputs)
    assert 0.3 < np.mean(first != second) < 0.7
    states = strategy.experimental_local_results(layer.seed_generator.state.value)
    np.testing.assert_array_equal(states[0], states[1])


def test_single_batches_are_shared_between_the_replicas(strategy):
    images, labels = examples(7)
    results = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        with scope:
            model = make_model()
            optimizer = SGD(0.1, global_clipnorm=0.5, use_ema=True, ema_momentum=0.5)
        model.compile(optimizer, SoftmaxCrossentropy(), metrics=["accuracy"])
        rows = [model.test_on_batch(images[:number], labels[:number]) for number in (1, 7)]
        rows += [model.train_on_batch(images, labels) for _ in range(2)]
        outputs = [model.predict_on_batch(images[:number]) for number in (1, 7)]
        with averaged_weights(model):
            outputs.append(model.predict_on_batch(images))
        outputs.append(model.predict_on_batch(images))
        results.append((rows, outputs))
    (rows, outputs), (expected_rows, expected_outputs) = results[1], results[0]
    for row, expected in zip(rows, expected_rows, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    for array, expected in zip(outputs, expected_outputs, strict=True):
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, atol=1e-6)
    assert not np.array_equal(outputs[2], outputs[3])


def test_model_and_checkpoints_cross_the_scope(strategy, tmp_path):
    images, _ = examples(4)
    model = make_model()
    expected = model.predict_on_batch(images)
    model.save(tmp_path / "model.keras")
    keras_vit.save_pretrained(model, tmp_path / "model.npz")
    with strategy.scope():
        loaded = [
            keras.saving.load_model(tmp_path / "model.keras"),
            keras_vit.from_pretrained(tmp_path / "model.npz"),
        ]
    for number, replicated in enumerate(loaded):
        np.testing.assert_allclose(replicated.predict_on_batch(images), expected, atol=1e-6)
        path = tmp_path / f"again_{number}.npz"
        keras_vit.save_pretrained(replicated, path)
        np.testing.assert_allclose(
            keras_vit.from_pretrained(path).predict_on_batch(images), expected, atol=1e-6
        )


def test_model_made_outside_of_the_scope_is_refused(strategy):
    images, labels = examples(4)
    model = make_model()
    model.compile(SGD(0.1), SoftmaxCrossentropy())
    uses = {
        "compile": lambda: model.compile("sgd", "mse"),
        "fit": lambda: model.fit(images, labels, verbose=0),
        "evaluate": lambda: model.evaluate(images, labels, verbose=0),
        "predict": lambda: model.predict(images, verbose=0),
        "predict_on_batch": lambda: model.predict_on_batch(images),
    }
    for use in uses.values():
        with strategy.scope(), pytest.raises(ValueError, match="must be made, or loaded, in the"):
            use()


@pytest.mark.parametrize("part", ["optimizer", "metric"])
def test_what_counts_outside_of_the_scope_is_refused(part, strategy):
    made = {"optimizer": SGD(0.1), "metric": keras.metrics.SparseCategoricalAccuracy(name="metric")}
    with strategy.scope():
        model = make_model()
        others = {"optimizer": "sgd", "metric": "accuracy"}
    chosen = {**others, part: made[part]}
    with pytest.raises(ValueError, match=f"{made[part].name!r}, made outside"):
        model.compile(chosen["optimizer"], SoftmaxCrossentropy(), metrics=[chosen["metric"]])


def test_xla_of_several_replicas_is_refused(strategy):
    with strategy.scope(), pytest.raises(ValueError, match="Received: jit_compile=True for 2 rep"):
        make_model().compile("sgd", "mse", jit_compile=True)


def test_private_names_of_keras_are_where_they_were():
    """What `keras_vit.train_step` and the optimizers reach into, as Keras 3.15.1 has it."""
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator

    where = {
        "_maybe_symbolic_build": TensorFlowTrainer,
        "_symbolic_build": TensorFlowTrainer,
        "_all_reduce_sum_gradients": keras.optimizers.Optimizer,
        "_clip_gradients": keras.optimizers.Optimizer,
    }
    missing = [name for name, owner in where.items() if not hasattr(owner, name)]
    model = make_model()
    model.compile("sgd", "mse")
    missing += [n for n in ("_distribute_strategy", "_loss_tracker") if not hasattr(model, n)]
    import tensorflow as tf

    iterator = TFEpochIterator(
        x=np.zeros((2, 1)), batch_size=2, distribute_strategy=tf.distribute.get_strategy()
    )
    missing += [] if hasattr(iterator, "_distributed_dataset") else ["_distributed_dataset"]
    assert not missing, f"Keras {keras.__version__} has no {missing}; see keras_vit/train_step"


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_step_that_is_not_finite_on_one_replica_is_applied_on_none(make, strategy):
    images, labels = examples(8)
    bad = images.copy()
    bad[7, 3, 3, 1] = np.nan  # an example of the second replica
    with strategy.scope():
        model = make_model()
        optimizer = make(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, SoftmaxCrossentropy())
    counted = {optimizer.iterations.path, optimizer.gradient_norm.path}
    for pixels, is_bad in ((images, False), (bad, True), (images, False)):
        variables = [*model.trainable_variables, *optimizer.variables]
        before = {v.path: v.numpy() for v in variables}
        model.train_on_batch(pixels, labels)
        changed = {v.path for v in variables if (v.numpy() != before[v.path]).any()}
        assert (changed == counted) if is_bad else (changed > counted)
