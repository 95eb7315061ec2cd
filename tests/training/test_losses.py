import logging

import keras
import numpy as np
import pytest

from keras_vit.training.losses import LOSSES, SigmoidCrossentropy, SoftmaxCrossentropy

# float32 sums over a few classes.
TOLERANCE = 1e-5

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 4)).astype("float32")
LABELS = np.array([0, 1, 2, 3, 1, 1], "int32")
HOT = np.eye(4)[LABELS]


def log_softmax(x):
    x = x.astype("float64")
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_equals_numpy(smoothing):
    targets = HOT * (1 - smoothing) + smoothing / 4
    expected = -(targets * log_softmax(LOGITS)).sum(-1).mean()
    received = SoftmaxCrossentropy(smoothing)(LABELS, LOGITS)
    np.testing.assert_allclose(float(received), expected, rtol=TOLERANCE)


@pytest.mark.parametrize("smoothing", [0.0, 1e-4, 0.1])
def test_sigmoid_is_a_sum_over_classes(smoothing):
    targets = np.where(HOT == 1, 1 - smoothing, smoothing)
    positive = -np.log1p(np.exp(-LOGITS.astype("float64")))
    negative = -np.log1p(np.exp(LOGITS.astype("float64")))
    expected = -(targets * positive + (1 - targets) * negative).sum(-1).mean()
    received = SigmoidCrossentropy(smoothing)(LABELS, LOGITS)
    np.testing.assert_allclose(float(received), expected, rtol=TOLERANCE)


def test_losses_agree_with_keras_up_to_the_number_of_classes():
    softmax = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    sigmoid = keras.losses.BinaryCrossentropy(from_logits=True)
    np.testing.assert_allclose(
        float(SoftmaxCrossentropy(0.1)(LABELS, LOGITS)), float(softmax(HOT, LOGITS)), rtol=1e-5
    )
    np.testing.assert_allclose(
        float(SigmoidCrossentropy()(LABELS, LOGITS)), 4 * float(sigmoid(HOT, LOGITS)), rtol=1e-5
    )


def test_losses_are_finite_for_extreme_logits():
    logits = np.array([[1e4, -1e4, 0, 0]], "float32")
    for loss in LOSSES.values():
        assert np.isfinite(float(loss()(np.array([1]), logits)))


@pytest.mark.parametrize("loss", LOSSES.values())
def test_losses_round_trip_their_configuration(loss):
    copy = keras.losses.deserialize(keras.losses.serialize(loss(label_smoothing=0.2)))
    assert type(copy) is loss
    assert copy.label_smoothing == 0.2


def test_losses_refuse_a_bad_smoothing():
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\). Received: 1"):
        SoftmaxCrossentropy(1)


@pytest.mark.parametrize("labels", [[1, 0, 1], [[1], [0], [1]], [1.0, 0.0, 1.0]])
def test_sigmoid_with_one_logit_has_the_label_as_target(labels):
    logits = np.array([[4.0], [-4.0], [4.0]], "float32")
    received = float(SigmoidCrossentropy()(np.array(labels), logits))
    assert received == pytest.approx(np.log1p(np.exp(-4.0)), rel=1e-6)  # 0.018


def test_softmax_of_one_logit_says_that_it_trains_nothing(caplog):
    logging.getLogger("absl").addHandler(caplog.handler)
    assert float(SoftmaxCrossentropy()(np.array([0, 1]), np.array([[4.0], [-4.0]]))) == 0
    logging.getLogger("absl").removeHandler(caplog.handler)
    assert "the softmax of one logit is always 1" in caplog.text
