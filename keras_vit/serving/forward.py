"""A Keras model of any backend as TensorFlow functions over TensorFlow variables.

Shapes: B batch, h w pixels of the model's input, C classes, D features, k heads, T tokens.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_vit.layers.trainable import get_quantized
from keras_vit.models.classifier import ImageClassifier

FEATURES_LAYER = "pre_logits"
# Lowered for all of them, so that a model from a JAX process on a CPU serves on a GPU.
_JAX_PLATFORMS = ("cpu", "cuda")
# The axes that a kernel is contracted over; all others but these make output channels.
_CONTRACTED_AXES = {"query_kernel": (0,), "key_kernel": (0,), "value_kernel": (0,)}


class StoredVariable(tf.Module):
    """A model's variable as an export keeps it.

    Args:
        variable: the `keras.Variable`.
        storage: `"float32"` for the variable's own dtype, `"bfloat16"` or `"int8"`.
    """

    def __init__(self, variable, storage="float32"):
        super().__init__(name=variable.name)
        self.scale = None
        if storage == "float32" and isinstance(variable.value, tf.Variable):
            self.stored = variable.value  # not a second copy
            return
        value = keras.ops.convert_to_numpy(variable)
        if storage == "int8":
            value, scale = quantize_int8(value, _contracted_axes(variable, value.ndim))
            self.scale = tf.Variable(scale, trainable=False, name=f"{variable.name}_scale")
        elif storage == "bfloat16":
            value = value.astype(tf.bfloat16.as_numpy_dtype)
        self.stored = tf.Variable(value, trainable=False, name=variable.name)

    def read(self):
        """The tensor that the model computes with."""
        value = tf.convert_to_tensor(self.stored)
        if self.scale is None:
            return value
        return tf.cast(value, tf.float32) * self.scale


def quantize_int8(value, axes):
    """Symmetric 8-bit numbers with one scale for each output channel.

    Args:
        value: float array.
        axes: the axes that share a scale: those that are summed over.

    Returns:
        `(quantized, scale)`: int8 in [-127, 127] of the same shape, and float32 with 1 at `axes`;
        `quantized * scale` is off by at most half a scale.

    >>> quantize_int8(np.array([[0.5, 2.0], [-1.0, 0.0]]), (0,))[0].tolist()
    [[64, 127], [-127, 0]]
    """
    scale = np.max(np.abs(value), axis=axes, keepdims=True).astype(np.float32) / 127
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.round(value / scale).astype(np.int8), scale


def _contracted_axes(variable, rank):
    return _CONTRACTED_AXES.get(variable.path.rsplit("/", 1)[-1], tuple(range(rank - 1)))


def _storage(variable, options):
    """Kernels are nearly all of a model's bytes; the rest, and the head, keep their precision."""
    if not variable.path.endswith("kernel") or variable.path.startswith("head/"):
        return "float32"
    return options.quantization or options.dtype or "float32"


def free_patch_size(model):
    """(P, Q) in pixels of a model whose height and width are free; None for any other."""
    config = getattr(model, "config", None)
    return config.patch_size if getattr(config, "dynamic_image_size", False) else None


def has_features(model):
    """Whether the model has a layer whose output is the embedding of an image."""
    return any(layer.name == FEATURES_LAYER for layer in model.layers)


def last_encoder_block(model):
    """The last layer that can say what its heads attend to.

    Raises:
        ValueError: if there is none.
    """
    for layer in reversed(model.layers):
        if hasattr(layer, "attention_probabilities"):
            return layer
    raise ValueError(
        f"`attention` needs a model with encoder blocks. Received: {type(model).__name__} "
        f"{model.name!r}; leave it out"
    )


def tensorflow_forward(model, options):
    """Returns the model's inference as something that `tf.saved_model.save` understands.

    Args:
        model: functional `keras.Model` with one input (B, h, w, 3) and the output (B, C).
        options: `ServingOptions`.

    Returns:
        `(functions, variables)`: functions from float32 (B, h, w, 3) to one float32 tensor each,
        `logits` (B, C), `features` (B, D) where the model has a layer `pre_logits`, and
        `attention` (B, k, T, T) if asked for; and the list of `StoredVariable` that they read.

    Raises:
        ValueError: for a backend that cannot be converted to TensorFlow, a dtype for a model that
            is not one of this package or is quantised, or attention that the model does not have.
    """
    backend = keras.backend.backend()
    if backend not in _CALLS:
        raise ValueError(
            "a SavedModel is written by the TensorFlow and JAX backends. Received: "
            f"{backend!r}; set KERAS_BACKEND=tensorflow and load the same model file"
        )
    if get_quantized(model) and (options.quantization or options.dtype):
        raise ValueError(
            "`quantization` and `dtype` are for models in floats. Received: the quantised "
            f"{model.name!r}; export it as it is"
        )
    stored = [StoredVariable(v, _storage(v, options)) for v in model.variables]
    model = _with_dtype(model, options.dtype)

    def function(compute):
        call = _CALLS[backend](compute, free_patch_size(model))

        def run(tensors):
            return tf.cast(call([variable.read() for variable in stored], tensors), tf.float32)

        return tf.function(run, jit_compile=True, autograph=False) if options.jit else run

    return {name: function(compute) for name, compute in _computations(model, options)}, stored


def _with_dtype(model, dtype):
    """The model's architecture in another dtype; its weights come with each call."""
    if dtype is None:
        return model
    if not isinstance(model, ImageClassifier):
        raise ValueError(
            "`dtype` is for the models of keras_vit. Received: "
            f"{type(model).__name__} {model.name!r}; give the model its dtype when it is made"
        )
    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    return type(model).from_config({**model.get_config(), "dtype": policy})


def _computations(model, options):
    """Pairs of a name and a function from variables' values and images to one output."""

    def computation(output, finish=lambda value: value):
        inference = keras.Model(model.input, output)

        def compute(values, tensors):
            with keras.StatelessScope(list(zip(model.variables, values, strict=True))):
                return finish(inference(tensors, training=False))

        return compute

    yield "logits", computation(model.outputs[0])
    if has_features(model):
        yield "features", computation(model.get_layer(FEATURES_LAYER).output)
    if options.attention:
        block = last_encoder_block(model)
        yield "attention", computation(block.input, block.attention_probabilities)


def _from_jax(compute, patch_size):
    from jax.experimental import jax2tf

    images = "(batch, ...)"
    if patch_size is not None:
        images = f"(batch, {patch_size[0]}*h, {patch_size[1]}*w, ...)"
    return jax2tf.convert(
        compute,
        polymorphic_shapes=[None, images],
        with_gradient=False,
        native_serialization_platforms=_JAX_PLATFORMS,
    )


_CALLS = {"tensorflow": lambda compute, _: compute, "jax": _from_jax}
