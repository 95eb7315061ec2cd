"""First derivatives on either backend, as they are computed in training: traced."""

import keras
import pytest
from keras import ops


def traced_gradients(function, inputs, upstream):
    """The gradients of sum(upstream * function(*inputs)) by the inputs, as arrays."""
    if keras.backend.backend() == "jax":
        import jax

        def pull_back(inputs, upstream):
            return jax.vjp(function, *inputs)[1](upstream)

        results = jax.jit(pull_back)(tuple(inputs), upstream)
    else:
        import tensorflow as tf

        @tf.function(autograph=False)
        def pull_back(inputs, upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(*inputs)
            return tape.gradient(outputs, inputs, output_gradients=upstream)

        results = pull_back(list(inputs), upstream)
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in results]


@pytest.fixture
def gradients():
    return traced_gradients


@pytest.fixture
def weight_gradients():
    """The gradients of the sum of a layer's outputs by its weights."""

    def compute(layer, inputs, training):
        if keras.backend.backend() == "jax":

            def function(*values):
                return layer.stateless_call(values, states, inputs, training=training)[0]

            values = [variable.value for variable in layer.weights]
            states = [variable.value for variable in layer.non_trainable_variables]  # of seeds
            return traced_gradients(function, values, ops.ones(inputs.shape))
        import tensorflow as tf

        @tf.function(autograph=False)
        def pull_back():
            with tf.GradientTape() as tape:
                outputs = layer(inputs, training=training)
            return tape.gradient(outputs, [variable.value for variable in layer.weights])

        return [x.numpy() for x in pull_back()]

    return compute
