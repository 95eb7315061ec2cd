"""What costs memory in training, with gradients that keep the inputs and compute the rest again.

All gradients here are first derivatives: they cannot be differentiated once more, nor in forward
mode.  Outside training the plain operations of Keras run, which can.

`after` and `scan` are the only functions of the layers that speak to a backend about the order of
its work.  Where the gradient could be computed as soon as its inputs exist, a scheduler computes it
in the forward pass and nothing is saved.
"""

import functools

import keras
from keras import ops

_BACKENDS = ("tensorflow", "jax")


def with_gradient(function):
    """`keras.ops.custom_gradient` for a function `(*inputs) -> (output, gradient)`.

    Args:
        function: `gradient(upstream)` returns a tuple with the gradient of each input.

    Returns:
        `(*inputs) -> output`.
    """

    @ops.custom_gradient
    @functools.wraps(function)
    def wrapped(*inputs):
        output, gradient = function(*inputs)

        # TensorFlow and JAX pass the gradient of the output by position, PyTorch by name.
        def keras_gradient(*args, upstream=None):
            gradients = gradient(args[0] if upstream is None else upstream)
            return gradients if len(gradients) > 1 else gradients[0]

        return output, keras_gradient

    return wrapped


def is_supported():
    """Whether `after` and `scan` know the backend."""
    return keras.backend.backend() in _BACKENDS


def after(value, other):
    """`value`, for operations that must not run before `other` is there."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier((value, other))[0]
    import tensorflow as tf

    with tf.control_dependencies([other]):
        return tf.identity(value)


def scan(step, carry, inputs, num_steps):
    """Runs `step` over the first axis of the inputs, one step at a time.

    Args:
        step: `(carry, slices) -> (carry, output)`.
        carry: a tuple of tensors.
        inputs: a tuple of tensors, (num_steps, ...).
        num_steps: an integer.

    Returns:
        The last carry, and the outputs, (num_steps, ...).
    """
    if keras.backend.backend() == "jax":
        return ops.scan(step, carry, inputs)
    import tensorflow as tf

    def body(i, carry, outputs):
        carry, output = step(carry, tuple(x[i] for x in inputs))
        return i + 1, carry, outputs.write(i, output)

    # The outputs are like the first of the inputs.
    outputs = tf.TensorArray(inputs[0].dtype, num_steps, element_shape=inputs[0].shape[1:])
    _, carry, outputs = tf.while_loop(
        lambda i, *_: i < num_steps,
        body,
        (tf.constant(0), carry, outputs),
        # More would hold more blocks in memory; each is parallel in itself.
        parallel_iterations=1,
        maximum_iterations=num_steps,
    )
    return carry, outputs.stack()


def elementwise(function, derivative, x, training):
    """function(x); in training its gradient is computed from x alone.

    Args:
        function: of a tensor, element by element.
        derivative: its derivative, likewise.
        x: any shape, any float dtype.
        training: whether a first derivative is all that will be asked for.
    """
    if not training or not is_supported():
        return function(x)

    @with_gradient
    def apply(x):
        return function(x), lambda upstream: (upstream * derivative(after(x, upstream)),)

    return apply(x)


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's layer over the last axis; its gradient in training keeps the input alone.

    Call arguments:
        inputs: (..., D).
        training: whether a first derivative is all that will be asked for.
    """

    def call(self, inputs, training=None):
        if not training or not is_supported():
            return super().call(inputs)

        @with_gradient
        def normalize(inputs, gamma, beta):
            x = ops.cast(inputs, "float32")
            mean = ops.mean(x, axis=-1, keepdims=True)
            centered = x - mean
            variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
            scale = ops.rsqrt(variance + self.epsilon)
            outputs = ops.cast(centered * scale * gamma + beta, inputs.dtype)

            def gradient(upstream):
                x = ops.cast(after(inputs, upstream), "float32")
                normalized = (x - mean) * scale
                dy = ops.cast(upstream, "float32")
                axes = tuple(range(len(inputs.shape) - 1))
                products = dy * normalized
                dgamma, dbeta = ops.sum(products, axes), ops.sum(dy, axes)
                # With h = gamma dy: dx = scale (h - mean(h) - normalized mean(h normalized)).
                h = dy * gamma
                mean_h = ops.mean(h, axis=-1, keepdims=True)
                mean_hn = ops.mean(products * gamma, axis=-1, keepdims=True)
                dx = (h - mean_h - normalized * mean_hn) * scale
                return ops.cast(dx, inputs.dtype), dgamma, dbeta

            return outputs, gradient

        gamma, beta = (ops.cast(w, "float32") for w in (self.gamma, self.beta))
        return normalize(inputs, gamma, beta)
