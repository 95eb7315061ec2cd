"""Kernels of 8 bits, as Keras's `quantize("int8")` makes them, also where no Dense holds them.

With s = 127 / max|W| of each output channel and t = 127 / max|x| of each row of inputs,

    x W ~ round(x t) round(W s) / (t s),

whose product is one of whole numbers.  The gradient of x is that of the kernel round(W s) / s.

Shapes: I features in, O features out.
"""

import contextlib
import re

import keras
from keras import ops

from keras_vit.layers.trainable import all_parts, get_quantized

MODE = "int8"


def rounded(kernel):
    """A kernel (I, O) in 8 bits: int8 (I, O) and its scales s, float32 (O,), as Keras makes them.

    >>> kernel, scale = rounded(ops.convert_to_tensor([[0.5, 2.0], [-1.0, 0.0]]))
    >>> ops.convert_to_numpy(kernel).tolist()
    [[63, 127], [-127, 0]]
    """
    kernel = ops.convert_to_tensor(kernel)
    values, scale = keras.quantizers.abs_max_quantize(kernel, axis=0, to_numpy=True)
    return values, ops.squeeze(scale, axis=0)


def restored(kernel, scale):
    """The kernel (I, O) that an int8 kernel and its scales (O,) stand for, float32."""
    return ops.cast(kernel, "float32") / ops.cast(scale, "float32")


def int8_product(inputs, kernel, scale):
    """x W of a kernel in 8 bits: (..., I) -> (..., O) in the dtype of `inputs`.

    Args:
        inputs: (..., I) floats.
        kernel: (I, O) int8.
        scale: (O,) floats, s.
    """

    @ops.custom_gradient
    def product(inputs, kernel, scale):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            restored = ops.cast(kernel, upstream.dtype) / ops.cast(scale, upstream.dtype)
            return ops.matmul(upstream, ops.transpose(restored)), None, None

        rows, row_scale = keras.quantizers.abs_max_quantize(inputs, axis=-1)
        outputs = ops.cast(ops.matmul(rows, kernel), inputs.dtype)
        return outputs / (ops.cast(row_scale, inputs.dtype) * scale), gradient

    scale = ops.cast(ops.convert_to_tensor(scale), inputs.dtype)
    return product(inputs, ops.convert_to_tensor(kernel), scale)


def check_int8(mode, config):
    """Raises NotImplementedError for what our layers cannot be quantised to.

    Args:
        mode: Of Keras's `quantize`.
        config: `keras.quantizers.Int8QuantizationConfig`, or None.
    """
    if mode != MODE or not _is_default(config):
        raise NotImplementedError(
            "the models of keras_vit are quantised to 'int8' with Keras's own quantizers. "
            f"Received: {mode!r}{'' if mode != MODE else ' with others'}"
        )


def _is_default(config):
    if config is None:
        return True
    quantizer, default = config.activation_quantizer, keras.quantizers.AbsMaxQuantizer()
    is_default = type(quantizer) is type(default) and quantizer.get_config() == default.get_config()
    return is_default and config.weight_quantizer is None


def source_policy(layer):
    """The dtype policy that a layer had before it was quantised."""
    policy = layer.dtype_policy
    if policy.quantization_mode is None:
        return policy
    return keras.dtype_policies.get(policy.get_config()["source_name"])


@contextlib.contextmanager
def scopes_of(variable):
    """The name scopes in which a variable was made, so that what takes its place has its path."""
    *scopes, _ = variable.path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes[:-1]:
            stack.enter_context(keras.name_scope(scope))
        yield


def is_quantizable(layer):
    """Whether a layer has kernels that can be of 8 bits: Dense layers, ours and attention."""
    return isinstance(layer, keras.layers.Dense) or hasattr(layer, "adaptable")


def quantize_model(model, mode, config, filters):
    """Quantises the Dense layers and the attention of a model and freezes everything.

    Args:
        model: A model that is built.
        mode: `"int8"`.
        config: None, or Keras's default for that mode.
        filters: Which layers: a regular expression that is searched in their names, a list of
            these, a function of a layer, or None for all.

    Raises:
        NotImplementedError: For another mode or configuration, or a model without attention.
        ValueError: For a model with adapters or one that is quantised, or where no layer is left.
    """
    check_int8(mode, config)
    parts = dict(all_parts(model))
    if not any(hasattr(part, "adaptable") for part in parts.values()):
        raise NotImplementedError(
            "`quantize` is for models with encoder blocks, whose attention and MLPs it keeps in 8 "
            f"bits. Received: {model.name!r}, which has none of them; "
            "`keras_vit.export(..., quantization='int8')` stores all kernels with 8 bits"
        )
    if get_quantized(model) or any("_lora/" in v.path for v in model.weights):
        raise ValueError(
            "`quantize` must be of a model that is not quantised and has no adapters. Received: "
            f"{model.name!r}, which {'is' if get_quantized(model) else 'has some; merge them'}"
        )
    chosen = [p for p in parts.values() if is_quantizable(p) and _passes(p, filters)]
    if not chosen:
        raise ValueError(f"`filters` must leave a layer to quantise. Received: {filters!r}")
    for part in chosen:
        part.quantize(mode)
    for variable in model.trainable_variables:
        variable.trainable = False
    for name in ("train_function", "test_function", "predict_function"):
        setattr(model, name, None)


def _passes(layer, filters):
    if filters is None or callable(filters):
        return filters is None or bool(filters(layer))
    patterns = [filters] if isinstance(filters, str) else filters
    return any(re.search(pattern, layer.name) for pattern in patterns)


def stored_variables(layer):
    """A layer's own variables in the order in which files hold them."""
    if isinstance(layer, keras.layers.Dense) and layer.quantization_mode is not None:
        found = (getattr(layer, name, None) for name in ("kernel", "bias", "kernel_scale"))
        return [variable for variable in found if variable is not None]
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def check_can_train(model):
    """Raises ValueError for a model with kernels of 8 bits and no adapters."""
    if any("_lora/" in variable.path for variable in model.trainable_variables):
        return
    if quantized := get_quantized(model):
        raise ValueError(
            "a quantised model is trained through adapters. Received: "
            f"{model.name!r}, whose {quantized[0]!r} has kernels of 8 bits; call "
            "`keras_vit.training.tuning.set_tune(model, 'lora:R')` or `enable_lora` of its layers"
        )
