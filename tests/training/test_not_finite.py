"""Numbers that are not finite: refused in a step, counted, named, and never saved."""

import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.cli.training_flags import print_result
from keras_vit.data import pipeline
from keras_vit.errors import TrainingError
from keras_vit.training.callbacks import RequireFiniteLoss
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import FIRST_LOSS_SCALE, SGD, AdamW
from keras_vit.training.recipe import Recipe
from keras_vit.training.resume.exact_resume import ExactResume
from keras_vit.training.resume.state_file import StateFolder
from keras_vit.training.run import pretrain
from tests import tiny

TINY = Recipe(
    steps=6,
    batch_size=8,
    optimizer="sgd",
    ema=0.9,
    report_steps=2,
    **tiny.RECIPE,
)


def examples(num_batches, bad=()):
    """Batches of 8; in those numbered `bad` one pixel is NaN."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (num_batches, 8, 8, 8, 3)).astype("float32")
    for number in bad:
        images[number, 3, 2, 1, 0] = np.nan
    return images.reshape((-1, 8, 8, 3)), rng.integers(0, 3, num_batches * 8)


def values(variables):
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in variables}


@pytest.fixture
def poison(monkeypatch):
    """Makes the batches of some steps of a run NaN."""

    def arrange(*steps):
        original = pipeline.training_dataset

        def poisoned(*arguments, start_step=0, **keywords):
            def spoil(step, batch):
                is_bad = tf.reduce_any(tf.equal(step, tf.constant(steps, tf.int64)))
                return tf.where(is_bad, np.nan, batch[0]), batch[1]

            data = original(*arguments, start_step=start_step, **keywords)
            return data.enumerate(start_step).map(spoil)

        monkeypatch.setattr(pipeline, "training_dataset", poisoned)

    return arrange


def test_bad_data_end_the_run_by_step_and_examples_and_leave_a_good_state(
    poison, digits_dir, tmp_path
):
    poison(3, 4, 5)
    info = pipeline.resolve("digits/upstream", digits_dir)
    names = pipeline.example_indices(info, "train", step=5, batch_size=8, seed=0, shots=None)
    with pytest.raises(TrainingError) as caught:
        pretrain(info, tmp_path, recipe=TINY, progress=False, checkpoint_steps=1)
    assert "not finite at step 6: " in str(caught.value)
    assert ", ".join(map(str, names)) in str(caught.value)
    state = StateFolder(tmp_path / "state").newest()
    assert state.step == 3
    assert state.is_finite()


def test_bad_data_at_the_end_of_reports_are_passed_over(poison, digits_dir, tmp_path, capsys):
    """Also of the last one: JSON has no number for its loss, and the run has its files."""
    poison(1, 4, 5)
    result = pretrain(
        *("digits/upstream", tmp_path),
        recipe=TINY,
        data_dir=digits_dir,
        progress=False,
    )
    rows = result.files["history.csv"].read_text().splitlines()
    column = rows[0].split(",").index("gradient_norm")
    assert [row.split(",")[column] for row in rows[1:]] == [
        "nan",
        rows[2].split(",")[column],
        "nan",
    ]
    assert json.loads(result.files["metrics.json"].read_text())["train"]["loss"] is None
    print_result("trained", result, as_json=False)
    assert ", loss not finite\n" in capsys.readouterr().out
    for weight in result.model.weights:
        assert np.isfinite(keras.ops.convert_to_numpy(weight)).all()


def test_training_step_that_refuses_nothing_lets_bad_data_into_the_weights():
    """The negative control of this file."""
    model = tiny.make_model()
    model = keras.Model(model.inputs, model.outputs)  # with the training step of Keras
    model.compile(keras.optimizers.SGD(0.1), SoftmaxCrossentropy())
    model.fit(*examples(2, bad=[1]), batch_size=8, verbose=0)
    assert not all(np.isfinite(value).all() for value in values(model.trainable_variables).values())


def test_history_of_a_step_that_was_refused_is_saved_and_read_back(tmp_path):
    def begin():
        model = tiny.make_model()
        model.compile(SGD(0.1), SoftmaxCrossentropy())
        return model, ExactResume(tmp_path)

    images, labels = examples(4, bad=[1])
    model, resume = begin()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8).repeat()
    model.fit(data, steps_per_epoch=2, epochs=2, callbacks=[resume], verbose=0)
    _, again = begin()
    assert np.isnan(again.history[0].pop("gradient_norm"))
    assert np.isnan(resume.history[0].pop("gradient_norm"))
    assert again.history == resume.history


@pytest.mark.parametrize(("make", "accumulation_steps"), [(SGD, 1), (AdamW, 2)])
def test_overflow_in_float16_is_refused_and_halves_the_scale(make, accumulation_steps):
    model = tiny.make_model(dtype="mixed_float16")
    optimizer = make(
        0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9, dynamic_loss_scale=True
    )
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, SoftmaxCrossentropy(), accumulation_steps=accumulation_steps)
    assert model.optimizer is optimizer
    images, labels = examples(1)
    counted = {v.path for v in (optimizer.iterations, *optimizer.measures.values())}
    rising = optimizer.steps_since_overflow.path

    def step():
        everything = [*model.trainable_variables, *optimizer.variables]
        before = values(everything)
        logs = model.train_on_batch(images, labels, return_dict=True)
        after = values(everything)
        return logs, {path for path, value in after.items() if (value != before[path]).any()}

    assert values([optimizer.loss_scale])[optimizer.loss_scale.path] == FIRST_LOSS_SCALE
    optimizer.loss_scale.assign(2.0**8)
    logs, changed = step()
    assert logs["loss_scale"] == 2.0**8
    assert np.isfinite(logs["gradient_norm"])
    assert rising in changed
    # A scale for which float16 has no numbers: 2^40 times a gradient of 2^-10 or so.
    optimizer.loss_scale.assign(2.0**40)
    logs, changed = step()
    assert logs["loss_scale"] == 2.0**24  # the highest there is
    assert not np.isfinite(logs["gradient_norm"])
    assert changed == counted | {rising}
    optimizer.loss_scale.assign(2.0)
    optimizer.steps_since_overflow.assign(1999.0)
    logs, changed = step()
    assert logs["loss_scale"] == 4.0
    assert np.isfinite(logs["gradient_norm"])
    assert changed > counted | {rising}


@pytest.mark.tensorflow_only
def test_overflow_in_float16_is_refused_on_all_replicas():
    from keras_vit.distribution.strategy import mirrored_strategy

    with mirrored_strategy().scope():
        model = tiny.make_model(dtype="mixed_float16")
        optimizer = SGD(0.01, use_ema=True, ema_momentum=0.9, dynamic_loss_scale=True)
        optimizer.build(model.trainable_variables)
    model.compile(optimizer, SoftmaxCrossentropy())
    trained = [*model.trainable_variables, *optimizer._model_variables_moving_average]
    for scale, expected, is_finite in ((2.0**8, 2.0**8, True), (2.0**40, 2.0**24, False)):
        optimizer.loss_scale.assign(scale)
        before = values(trained)
        logs = model.train_on_batch(*examples(1), return_dict=True)
        changed = [(value != before[path]).any() for path, value in values(trained).items()]
        assert any(changed) == np.isfinite(logs["gradient_norm"]) == is_finite
        for variable in (optimizer.loss_scale, optimizer.steps_since_overflow):
            parts = [part.numpy() for part in variable.value.values]
            assert parts == [{"loss_scale": expected}.get(variable.name, float(is_finite))] * 2


def test_gradient_in_float16_does_not_depend_on_the_scale():
    norms = {}
    for scale in (None, 1.0, 2.0**10):
        model = tiny.make_model(dtype=None if scale is None else "mixed_float16")
        optimizer = SGD(0.0, dynamic_loss_scale=scale is not None)
        optimizer.build(model.trainable_variables)
        if scale is not None:
            optimizer.loss_scale.assign(scale)
        model.compile(optimizer, SoftmaxCrossentropy())
        norms[scale] = model.train_on_batch(*examples(1), return_dict=True)["gradient_norm"]
    # Half precision has 11 bits, of sums of a few hundred terms.
    assert norms[1.0] == pytest.approx(norms[None], rel=2e-2)
    assert norms[2.0**10] == pytest.approx(norms[None], rel=2e-2)


def test_overflow_in_float16_is_no_failure_until_the_scale_is_one(caplog):
    callback = RequireFiniteLoss(limit=2)
    callback.on_train_begin()
    logging.getLogger("absl").addHandler(caplog.handler)
    overflow = {"loss": 0.5, "gradient_norm": np.inf}
    for scale in (8.0, 4.0, 2.0):
        callback.on_train_batch_end(0, {**overflow, "loss_scale": scale})
    callback.on_train_batch_end(0, {**overflow, "loss_scale": 1.0})
    with pytest.raises(TrainingError, match="at step 5: gradient_norm inf.* the last of 2 such"):
        callback.on_train_batch_end(0, {**overflow, "loss_scale": 1.0})
    logging.getLogger("absl").removeHandler(caplog.handler)


def test_optimizer_without_scale_is_refused_in_float16():
    model = tiny.make_model(dtype="mixed_float16")
    with pytest.raises(ValueError, match="must scale the loss. Received: 'sgd' without"):
        model.compile(SGD(0.1), SoftmaxCrossentropy())
    model.compile(keras.optimizers.SGD(0.1), SoftmaxCrossentropy())
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    with pytest.raises(ValueError, match="must be without `gradient_accumulation_steps`"):
        SGD(0.1, dynamic_loss_scale=True, gradient_accumulation_steps=2)


def test_run_in_float16_averages_its_weights_and_writes_its_files(digits_dir, tmp_path):
    result = pretrain(
        *("digits/upstream", tmp_path),
        recipe=TINY,
        data_dir=digits_dir,
        progress=False,
        dtype="mixed_float16",
    )
    rows = result.files["history.csv"].read_text().splitlines()
    assert {"loss_scale", "gradient_norm"} < set(rows[0].split(","))
    assert result.metrics["validation"]["loss"] == pytest.approx(
        model_loss(result, digits_dir), rel=1e-3
    )


def model_loss(result, digits_dir):
    from keras_vit.evaluators.classification import evaluate

    info = pipeline.resolve("digits/upstream", digits_dir)
    model = keras.saving.load_model(result.files["model.keras"])
    return evaluate(model, info, "validation", 8)["loss"]
