"""A Keras model of any backend as a TensorFlow function over TensorFlow variables."""

import keras
import tensorflow as tf

FEATURES_LAYER = "pre_logits"
# Lowered for all of them, so that a model from a JAX process on a CPU serves on a GPU.
_JAX_PLATFORMS = ("cpu", "cuda")


def has_features(model):
    """Whether the model has a layer whose output is the embedding of an image."""
    return any(layer.name == FEATURES_LAYER for layer in model.layers)


def tensorflow_forward(model):
    """Returns the model's inference as something that `tf.saved_model.save` understands.

    Args:
        model: functional `keras.Model` with one input (B, h, w, 3) and the output (B, C).

    Returns:
        `(forward, variables)`: a function from a float32 (B, h, w, 3) tensor to a dict of float32
        tensors, `logits` (B, C) and, where the model has a layer `pre_logits`, `features` (B, D);
        and the list of `tf.Variable` that it reads.

    Raises:
        ValueError: for a backend that cannot be converted to TensorFlow.
    """
    outputs = {"logits": model.outputs[0]}
    if has_features(model):
        outputs["features"] = model.get_layer(FEATURES_LAYER).output
    inference = keras.Model(model.input, outputs)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        call, variables = _from_tensorflow(inference)
    elif backend == "jax":
        call, variables = _from_jax(inference)
    else:
        raise ValueError(
            "a SavedModel is written by the TensorFlow and JAX backends. Received: "
            f"{backend!r}; set KERAS_BACKEND=tensorflow and load the same model file"
        )

    def forward(tensors):
        return {name: tf.cast(value, tf.float32) for name, value in call(tensors).items()}

    return forward, variables


def _from_tensorflow(inference):
    return (lambda tensors: inference(tensors, training=False)), [
        variable.value for variable in inference.variables
    ]


def _from_jax(inference):
    from jax.experimental import jax2tf

    def stateless(trainable, non_trainable, tensors):
        outputs, _ = inference.stateless_call(trainable, non_trainable, tensors, training=False)
        return outputs

    trainable = _tensorflow_variables(inference.trainable_variables)
    non_trainable = _tensorflow_variables(inference.non_trainable_variables)
    converted = jax2tf.convert(
        stateless,
        polymorphic_shapes=[None, None, "(batch, ...)"],
        with_gradient=False,
        native_serialization_platforms=_JAX_PLATFORMS,
    )
    return (lambda tensors: converted(trainable, non_trainable, tensors)), trainable + non_trainable


def _tensorflow_variables(variables):
    return [
        tf.Variable(keras.ops.convert_to_numpy(variable), trainable=False, name=variable.name)
        for variable in variables
    ]
