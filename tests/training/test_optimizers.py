import keras
import numpy as np
import pytest

from keras_vit.training.optimizers import SGD, AdamW, averaged_weights, make_optimizer
from keras_vit.training.recipe import Recipe

# One update in float32.
TOLERANCE = 1e-6


def updates(recipe, start, gradients):
    """The values of one variable after each update."""
    variable = keras.Variable(start, name="kernel")
    optimizer = make_optimizer(recipe, recipe.steps, [variable])
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        values.append(keras.ops.convert_to_numpy(variable.value))
    return values


def test_adamw_decays_by_the_rate_times_the_decay():
    recipe = Recipe(
        steps=10, optimizer="adamw", learning_rate=0.1, decay="constant", weight_decay=0.3
    )
    start = np.array([2.0, -4.0], "float32")
    (value,) = updates(recipe, start, [np.array([0.01, -0.02])])
    # The first step of Adam is the sign of the gradient; decay is lr wd p, apart from it.
    np.testing.assert_allclose(value, start - 0.1 * np.array([1, -1]) - 0.03 * start, rtol=1e-5)


def test_sgd_has_momentum_and_clips_the_whole_gradient():
    recipe = Recipe(steps=10, learning_rate=0.1, decay="constant", global_clipnorm=1.0)
    gradient = np.array([3.0, 4.0])
    first, second = updates(recipe, np.zeros(2, "float32"), [gradient, gradient])
    clipped = gradient / 5
    np.testing.assert_allclose(first, -0.1 * clipped, rtol=TOLERANCE)
    np.testing.assert_allclose(second, first - 0.1 * (0.9 + 1) * clipped, rtol=TOLERANCE)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_first_update_of_a_warmup_changes_nothing(optimizer):
    recipe = Recipe(steps=10, warmup_steps=4, optimizer=optimizer, weight_decay=0.1)
    first, second = updates(recipe, np.ones(2, "float32"), [np.ones(2)] * 2)
    np.testing.assert_array_equal(first, np.ones(2))
    assert (second < first).all()


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="less than `total_steps`"):
        make_optimizer(Recipe(epochs=1, warmup_steps=5), 5, [keras.Variable([1.0])])


def test_momentum_has_the_rate_of_each_step_outside():
    # Keras's SGD would move by 0.9 x 1.0 in the second step, whose rate is 0.1.
    variable = keras.Variable([0.0])
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.1])
    optimizer = SGD(rates)
    for expected in (-1.0, -1.0 - 0.1 * (0.9 + 1.0)):
        optimizer.apply([keras.ops.ones(1)], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), expected, rtol=1e-6)


def test_adamw_is_the_formula_in_float64():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(5, 4))
    w, m, v = rng.normal(size=4), np.zeros(4), np.zeros(4)
    variable = keras.Variable(w.astype("float32"))
    optimizer = AdamW(0.1, weight_decay=0.3, epsilon=0.01)
    for n, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        first, second = m / (1 - 0.9**n), v / (1 - 0.999**n)
        w = w - 0.1 * (first / (np.sqrt(second) + 0.01) + 0.3 * w)
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32")], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), w, atol=5e-6)


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_bfloat16_moment_takes_half_the_memory_and_comes_back(make):
    variable = keras.Variable(np.ones(3, "float32"), name="kernel")
    optimizer = make(0.1, momentum_dtype="bfloat16")
    optimizer.build([variable])
    (moment,) = optimizer.momentums
    assert keras.backend.standardize_dtype(moment.dtype) == "bfloat16"
    optimizer.apply([keras.ops.full((3,), 0.3)], [variable])
    copy = make.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match="`momentum_dtype` must be one of .* Received: 'int8'"):
        make(0.1, momentum_dtype="int8")


def test_gradient_norm_is_that_before_clipping():
    variables = [keras.Variable([0.0]), keras.Variable([0.0])]
    optimizer = SGD(0.1, global_clipnorm=1.0)
    optimizer.apply([keras.ops.array([3.0]), keras.ops.array([4.0])], variables)
    assert float(optimizer.gradient_norm.value) == pytest.approx(5.0)
    assert [float(v.value[0]) for v in variables] == pytest.approx([-0.06, -0.08])


def test_averaged_weights_are_there_for_the_block_only():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    (kernel,) = model.weights
    kernel.assign([[0.0]])
    model.compile(SGD(1.0, momentum=0.0, use_ema=True, ema_momentum=0.9), "mse")
    average = None
    for n in range(1, 4):
        model.optimizer.apply([keras.ops.ones((1, 1))], [kernel])
        average = -1.0 if average is None else 0.9 * average + 0.1 * -n
    with averaged_weights(model):
        assert float(kernel.value[0, 0]) == pytest.approx(average)
    assert float(kernel.value[0, 0]) == -3.0
