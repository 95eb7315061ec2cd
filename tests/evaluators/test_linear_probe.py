"""Linear probes against trainings by DINO's and MAE's own code, and over a model's features."""

import keras
import numpy as np
import pytest

from keras_vit.data import pipeline
from keras_vit.evaluators import linear_probe, probe_training
from keras_vit.evaluators.probe_training import PROTOCOLS, Protocol
from tests.conftest import REFERENCE
from tests.tiny import make_model

# Of max|reference|, after 20 and 24 updates in float32.
TOLERANCE = 1e-5


def _reference(name):
    with np.load(REFERENCE / "evaluation" / "probe" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def _train(protocol, case):
    """The probes of a reference training, its losses and its rates before each update."""
    steps = int(case["steps_per_epoch"])
    probes = probe_training.make_probes(
        protocol, case["features"].shape[-1], case["start_bias"].size, 256, steps
    )
    layer = probes.get_layer("probes")
    count = len(protocol.learning_rates)
    layer.kernel.assign(np.repeat(case["start_kernel"][None], count, axis=0))
    layer.bias.assign(np.repeat(case["start_bias"][None], count, axis=0))
    schedule, losses = protocol.schedule(steps), []
    for features, labels in zip(case["features"], case["labels"], strict=True):
        losses.append(float(probes.train_on_batch(features, labels)))
    rates = [float(schedule(step)) * float(case["base_lr"]) for step in range(len(losses))]
    return probes, losses, rates


def _check_trajectory(case, probes, losses, rates, assert_close):
    np.testing.assert_allclose(rates, case["learning_rates"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses, case["losses"], rtol=TOLERANCE)
    layer = probes.get_layer("probes")
    assert_close(layer.kernel[0], case["end_kernel"], TOLERANCE)
    assert_close(layer.bias[0], case["end_bias"], TOLERANCE)


def test_sgd_and_the_cosine_by_epochs_are_those_of_dino(assert_close):
    case = _reference("linear_dino_sgd")
    protocol = linear_probe.get_protocol(
        "dino", learning_rates=(float(case["base_lr"]),), epochs=int(case["epochs"])
    )
    _check_trajectory(case, *_train(protocol, case), assert_close)


def test_lars_batch_norm_and_the_cosine_by_steps_are_those_of_mae(assert_close):
    case = _reference("linear_mae_lars")
    protocol = linear_probe.get_protocol(
        "mae",
        learning_rates=(float(case["base_lr"]),),
        epochs=int(case["epochs"]),
        warmup_epochs=int(case["warmup_epochs"]),
    )
    probes, losses, rates = _train(protocol, case)
    _check_trajectory(case, probes, losses, rates, assert_close)
    norm = probes.get_layer("norm")
    assert_close(norm.mean, case["running_mean"], TOLERANCE)
    assert_close(norm.variance, case["running_variance"], TOLERANCE)
    logits = probes.predict_on_batch(case["test_features"])[:, 0]
    assert_close(logits, case["test_logits"], TOLERANCE)


@pytest.mark.parametrize("name", ["dino", "mae"])
def test_rates_trained_at_once_end_as_if_trained_alone(name, assert_close):
    case = _reference({"dino": "linear_dino_sgd", "mae": "linear_mae_lars"}[name])
    rates = (0.1, 0.4)
    together, _, _ = _train(linear_probe.get_protocol(name, learning_rates=rates, epochs=6), case)
    for i, rate in enumerate(rates):
        alone, _, _ = _train(
            linear_probe.get_protocol(name, learning_rates=(rate,), epochs=6), case
        )
        assert_close(
            together.get_layer("probes").kernel[i],
            keras.ops.convert_to_numpy(alone.get_layer("probes").kernel[0]),
            TOLERANCE,
        )


def test_published_protocols():
    assert PROTOCOLS["mae"].learning_rates[0] * PROTOCOLS["mae"].batch_size / 256 == 6.4
    assert len(PROTOCOLS["dinov2"].learning_rates) == 13
    assert PROTOCOLS["dinov2"].learning_rates[::12] == (1e-5, 0.1)
    assert float(PROTOCOLS["mae"].schedule(10)(0)) == 0.0
    assert float(PROTOCOLS["mae"].schedule(10)(100)) == 1.0
    dino = PROTOCOLS["dino"].schedule(10)
    assert float(dino(509)) == pytest.approx(0.5)
    assert float(dino(9)) == 1.0
    shorter = linear_probe.get_protocol("mae", epochs=18)
    assert (shorter.epochs, shorter.warmup_epochs) == (18, 2)


def test_batches_of_an_epoch_hold_each_image_once():
    features, labels = np.arange(10.0)[:, None], np.arange(10)
    batches = list(linear_probe.shuffled_batches(features, labels, 5, 4))
    for epoch in (batches[:2], batches[2:]):
        assert sorted(np.concatenate([labels for _, labels in epoch])) == list(range(10))
    assert batches[0][1].tolist() != batches[2][1].tolist()


@pytest.fixture
def digits(digits_dir):
    return pipeline.resolve("digits/all", digits_dir)


def test_evaluator_scores_the_rate_that_is_best_on_the_validation_split(digits):
    model = make_model(num_classes=10, hidden_size=32)
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    metrics = linear_probe.LinearProbe(
        digits, learning_rates=(1e-4, 2.0), batch_size=128, steps=200
    ).run(model)
    assert metrics["learning_rate"] == 2.0
    assert metrics["accuracy"] > 0.3
    assert metrics["validation_accuracy"] == pytest.approx(metrics["accuracy"], abs=0.15)
    for weight, was in zip(model.weights, before, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(weight), was)


def test_evaluator_trains_on_augmented_images(digits):
    evaluator = linear_probe.LinearProbe(
        digits,
        "dinov2",
        learning_rates=(2.0,),
        batch_size=128,
        steps=60,
        augmentation="handwriting",
    )
    metrics = evaluator.run(make_model(num_classes=10, hidden_size=32))
    assert set(metrics) == {"accuracy", "learning_rate"}
    assert metrics["accuracy"] > 0.25


def test_grid_without_a_validation_split_is_an_error(digits):
    probe = linear_probe.LinearProbe(digits, validation_split="minival")
    with pytest.raises(ValueError, match="there must be a validation split. Received: 13 rates"):
        probe.run(make_model(num_classes=10))


def test_rates_that_all_diverge_are_an_error(digits):
    probe = linear_probe.LinearProbe(digits, learning_rates=(5e37,), steps=20)
    with pytest.raises(ValueError, match="small enough for its weights to stay finite"):
        probe.run(make_model(num_classes=10))


def test_protocol_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="`protocol` must be one of dino, mae, dinov2"):
        linear_probe.LinearProbe("digits/all", "moco")
    with pytest.raises(ValueError, match="exactly one of `epochs` and `steps`"):
        Protocol(source="x", optimizer="sgd", learning_rates=(1,), batch_size=1)
    with pytest.raises(ValueError, match="rates must be positive"):
        linear_probe.get_protocol("dino", learning_rates=(-1.0,))
