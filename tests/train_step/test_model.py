import functools

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import SGD, AdamW
from tests import tiny

needs_micro_batches = pytest.mark.skipif(
    keras.backend.backend() not in ("tensorflow", "jax"), reason="no micro-batches on this backend"
)
# float32 sums in another order.
TOLERANCE = 1e-5


make_model = functools.partial(tiny.make_model, depth=2)


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (12, 8, 8, 3)).astype("float32")
    return images, rng.integers(0, 3, 12)


def trained(model, batch, accumulation_steps, epochs=3, **compile_arguments):
    model.compile(
        SGD(0.1, global_clipnorm=1.0),
        SoftmaxCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        accumulation_steps=accumulation_steps,
        **compile_arguments,
    )
    history = model.fit(*batch, batch_size=12, epochs=epochs, shuffle=False, verbose=0).history
    return history, [keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables]


@needs_micro_batches
@pytest.mark.parametrize("accumulation_steps", [2, 4, 12])
def test_micro_batches_train_like_the_whole_batch(accumulation_steps, batch):
    expected_history, expected = trained(make_model(), batch, 1)
    history, received = trained(make_model(), batch, accumulation_steps)
    assert set(history) == {"loss", "accuracy", "gradient_norm"}
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=TOLERANCE)
    for value, weight in zip(received, expected, strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


@needs_micro_batches
def test_micro_batches_have_dropout_masks_of_their_own(batch):
    model = make_model(dropout=0.5)
    before = [keras.ops.convert_to_numpy(v.value) for v in model.non_trainable_variables]
    history, weights = trained(model, batch, 2)
    assert np.all(np.isfinite(history["loss"]))
    after = [keras.ops.convert_to_numpy(v.value) for v in model.non_trainable_variables]
    changed = [(old != new).any() for old, new in zip(before, after, strict=True)]
    assert changed
    assert all(changed)
    again = make_model(dropout=0.5)
    _, same = trained(again, batch, 2)
    for value, weight in zip(same, weights, strict=True):
        np.testing.assert_array_equal(value, weight)


@needs_micro_batches
def test_micro_batches_weigh_examples(batch):
    images, labels = batch
    weights = np.array([0.0, 2.0] * 6, "float32")
    results = []
    for accumulation_steps in (1, 3):
        model = make_model()
        model.compile(SGD(0.1), SoftmaxCrossentropy(), accumulation_steps=accumulation_steps)
        model.fit(images, labels, sample_weight=weights, batch_size=12, shuffle=False, verbose=0)
        results.append([keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables])
    for value, weight in zip(*results, strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


@needs_micro_batches
@pytest.mark.tensorflow_only
def test_micro_batches_run_under_xla(batch):
    _, expected = trained(make_model(), batch, 4, jit_compile=False)
    _, received = trained(make_model(), batch, 4, jit_compile=True)
    for value, weight in zip(received, expected, strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


@needs_micro_batches
@pytest.mark.parametrize(("batch_size", "accumulation_steps"), [(8, 4), (12, 5), (5, 7)])
def test_batch_that_does_not_divide_counts_with_its_size(batch, batch_size, accumulation_steps):
    """12 examples in batches of 8 and 4, of 12 in parts of 3 and 2, and of 5, 5 and 2."""
    images, labels = batch
    results = []
    for number in (1, accumulation_steps):
        model = make_model()
        model.compile(
            SGD(0.1, global_clipnorm=1.0),
            SoftmaxCrossentropy(),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            accumulation_steps=number,
        )
        options = {"batch_size": batch_size, "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(images, labels, **options).history
        weights = [keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables]
        results.append((history, weights))
    (expected_history, expected), (history, received) = results
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=TOLERANCE)
    for value, weight in zip(received, expected, strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


@needs_micro_batches
def test_last_batch_of_micro_batches_need_not_be_whole():
    """22 examples in batches of 8: the last has 6, in parts of 2, 2, 1 and 1."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (22, 8, 8, 3)).astype("float32")
    labels = rng.integers(0, 3, 22)
    results = []
    for accumulation_steps in (1, 4):
        model = make_model()
        model.compile("sgd", SoftmaxCrossentropy(), accumulation_steps=accumulation_steps)
        history = model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history
        results.append((history, model.get_weights()))
    assert results[1][0]["loss"] == pytest.approx(results[0][0]["loss"], rel=TOLERANCE)
    for value, weight in zip(results[1][1], results[0][1], strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


@pytest.mark.parametrize("value", [0, 1.5, True, None])
def test_compile_refuses_what_is_no_number_of_micro_batches(value):
    with pytest.raises(ValueError, match="`accumulation_steps` must be a positive integer"):
        make_model().compile("sgd", "mse", accumulation_steps=value)


@needs_micro_batches
def test_saved_model_remembers_its_micro_batches(batch, tmp_path):
    model = make_model()
    trained(model, batch, 4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.accumulation_steps == 4
    assert isinstance(loaded.optimizer, SGD)
    for value, weight in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(value.value), keras.ops.convert_to_numpy(weight.value)
        )


@needs_micro_batches
def test_optimizer_of_keras_trains_with_the_norm(batch):
    model = make_model()
    model.compile("adam", SoftmaxCrossentropy())
    assert set(model.fit(*batch, verbose=0).history) == {"loss", "gradient_norm"}


def values(variables):
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in variables}


@needs_micro_batches
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("make", [SGD, AdamW, keras.optimizers.RMSprop, keras.optimizers.AdamW])
def test_steps_that_are_not_finite_are_not_applied(make, accumulation_steps, batch):
    model = make_model(dropout=0.1)
    optimizer = make(0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, SoftmaxCrossentropy(), accumulation_steps=accumulation_steps)
    images, labels = batch
    bad = images.copy()
    bad[7, 3, 3, 1] = np.nan
    counted = {optimizer.iterations.path}
    if make in (SGD, AdamW):
        counted.add(optimizer.gradient_norm.path)
    for pixels, is_bad in ((bad, True), (images, False), (bad, True), (images, False)):
        trained = [*model.trainable_variables, *optimizer.variables]
        before = values(trained)
        logs = model.train_on_batch(pixels, labels, return_dict=True)
        changed = {path for path, value in values(trained).items() if (value != before[path]).any()}
        assert np.isfinite(logs["gradient_norm"]) == (not is_bad)
        assert (changed == counted) if is_bad else (changed > counted)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 4
    assert all(np.isfinite(np.asarray(v, np.float32)).all() for v in values(trained).values())


@needs_micro_batches
def test_mean_loss_leaves_out_what_is_not_finite(batch):
    images, labels = batch
    bad = images.copy()
    bad[0] = np.inf
    model = make_model()
    model.compile(SGD(0.0), SoftmaxCrossentropy())
    data = [np.concatenate(parts) for parts in ((images, bad, images), (labels, labels, labels))]
    loss = model.fit(*data, batch_size=12, shuffle=False, verbose=0).history["loss"][0]
    expected = model.fit(images, labels, batch_size=12, verbose=0).history["loss"][0]
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    (loss,) = model.fit(bad, labels, batch_size=12, verbose=0).history["loss"]
    assert np.isnan(loss)


def test_averages_start_at_the_weights():
    model = make_model()
    optimizer = SGD(0.1, use_ema=True, ema_momentum=0.9)
    optimizer.build(model.trainable_variables)
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(average), keras.ops.convert_to_numpy(variable)
        )


@needs_micro_batches
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_recomputed_blocks_train_alike(rate, batch):
    rates = {"dropout": rate, "attention_dropout": rate, "stochastic_depth": rate}
    results = []
    for remat in (False, True):
        model = make_model(**rates)
        model.set_remat(remat)
        results.append(trained(model, batch, 2))
    for (name, values), others in zip(results[0][0].items(), results[1][0].values(), strict=True):
        np.testing.assert_allclose(values, others, rtol=TOLERANCE, err_msg=name)
    for value, weight in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(value, weight, atol=TOLERANCE)


def test_model_without_blocks_is_not_recomputed():
    model = keras_vit.create_model("BiT-R50x1", num_classes=2, image_size=32)
    model.set_remat(False)
    with pytest.raises(ValueError, match="needs a model with encoder blocks. Received: BiTResNet"):
        model.set_remat()
