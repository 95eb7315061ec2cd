import keras
import numpy as np
import pytest

from keras_vit.training.optimizers import make_optimizer
from keras_vit.training.recipes import Recipe

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
