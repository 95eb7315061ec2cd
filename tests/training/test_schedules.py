import keras
import numpy as np
import pytest

from keras_vit.training.schedules import WarmupDecay

# float32 arithmetic on rates.
TOLERANCE = 1e-6


def curve(schedule, steps):
    return np.array([keras.ops.convert_to_numpy(schedule(step)) for step in range(steps)])


def expected(decay, base, total, warmup, end=1e-5):
    """vit_jax `create_learning_rate_schedule` in float64."""
    step = np.arange(total + 5, dtype=np.float64)
    progress = np.clip((step - warmup) / (total - warmup), 0.0, 1.0)
    rate = {
        "linear": end + (base - end) * (1.0 - progress),
        "cosine": base * 0.5 * (1.0 + np.cos(np.pi * progress)),
        "constant": np.full_like(progress, base),
    }[decay]
    return rate * np.minimum(1.0, step / warmup) if warmup else rate


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_warmup_decay_is_the_official_curve(decay, warmup):
    schedule = WarmupDecay(0.03, 50, decay, warmup)
    np.testing.assert_allclose(
        curve(schedule, 55), expected(decay, 0.03, 50, warmup), rtol=TOLERANCE, atol=1e-9
    )


def test_warmup_decay_hand_worked():
    linear = curve(WarmupDecay(1.0, 10, "linear", 2, end_learning_rate=0.2), 12)
    np.testing.assert_allclose(linear[[0, 1, 2, 6, 10, 11]], [0, 0.5, 1, 0.6, 0.2, 0.2], rtol=1e-6)


def test_warmup_decay_equals_keras_cosine_after_the_warmup():
    ours = curve(WarmupDecay(0.1, 40, "cosine", 10), 40)
    keras_schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=30, warmup_target=0.1, warmup_steps=10
    )
    np.testing.assert_allclose(ours, curve(keras_schedule, 40), rtol=1e-5, atol=1e-8)


def test_warmup_decay_serialization_keeps_the_curve():
    schedule = WarmupDecay(0.1, 20, "linear", 3, end_learning_rate=1e-3)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(copy, WarmupDecay)
    np.testing.assert_array_equal(curve(copy, 20), curve(schedule, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 10, "cosin"), "`decay` must be one of .* Received: 'cosin'"),
        ((-0.1, 10), "must not be negative. Received: -0.1"),
        ((0.1, 10, "cosine", 10), "less than `total_steps`. Received: warmup_steps=10"),
        ((0.1, 0), "Received: warmup_steps=0, total_steps=0"),
    ],
)
def test_warmup_decay_bad_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupDecay(*arguments)
