"""Low-rank adaptation (LoRA, arXiv:2106.09685): a kernel W acts as W + alpha / R A B.

Keras's own `enable_lora` knows Dense layers only, not the kernels of an attention, and makes all of
A B in each step; here x A B goes through the R features in the middle, and `enable_lora` is this.

Shapes: I features in, O features out, R rank.
"""

import contextlib

import keras
from keras import ops

from keras_vit.layers.quantization import (
    check_int8,
    int8_product,
    restored,
    rounded,
    scopes_of,
    source_policy,
    stored_variables,
)
from keras_vit.layers.regularization import dropout, seed_generator
from keras_vit.layers.trainable import parts_of


class LowRank(keras.layers.Layer):
    """dropout(x) A B alpha / R: (..., I) -> (..., O).

    A is uniform within 1 / sqrt(I), as PEFT draws it, and B zero: at the start nothing is added.

    Args:
        rank: R, at least 1.
        units: O.
        alpha: The product is multiplied by alpha / R.
        dropout: Rate on x in training, in [0, 1).

    Raises:
        ValueError: For a rank below 1, or a rate outside of its range.
    """

    is_adapter = True  # and no part of what the layer's configuration makes

    def __init__(self, rank, units, alpha, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if rank < 1:
            raise ValueError(f"`rank` must be at least 1. Received: {rank}")
        self.rank = rank
        self.units = units
        self.alpha = alpha
        self.dropout = dropout
        self.seeds = seed_generator(dropout)

    def build(self, input_shape):
        bound = input_shape[-1] ** -0.5
        uniform = keras.initializers.RandomUniform(-bound, bound)
        self.a = self.add_weight(name="a", shape=(input_shape[-1], self.rank), initializer=uniform)
        self.b = self.add_weight(name="b", shape=(self.rank, self.units), initializer="zeros")

    def call(self, x, training=None):
        x = dropout(x, self.dropout, self.seeds, training)
        return ops.matmul(ops.matmul(x, self.a), self.b) * (self.alpha / self.rank)

    def product(self):
        """alpha / R A B, what a merged kernel has more: float32 (I, O), a NumPy array."""
        a, b = (ops.convert_to_numpy(v).astype("float64") for v in (self.a, self.b))
        return (a @ b * (self.alpha / self.rank)).astype("float32")

    def save_own_variables(self, store):
        """Keeps nothing: files hold the merged kernel, an ordinary model's."""

    def load_own_variables(self, store):
        """Adds nothing to a kernel that was just loaded."""
        self.b.assign(ops.zeros(self.b.shape))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


class Adaptable:
    """A layer whose kernels can be adapted; it stands before the Keras class among the bases.

    Attributes:
        adaptable: Names of the attributes that hold these kernels.
        adaptable_shape: (I, O) of each of them.
    """

    adaptable = ("kernel",)

    @property
    def adaptable_shape(self):
        return tuple(self.kernel.shape)

    def enable_lora(self, rank, lora_alpha=None):
        """Gives each of the layer's kernels a `LowRank` and freezes the kernels, as Keras's does.

        Everything else stays trained; `keras_vit.training.tuning.set_tune(model, "lora:R")` does
        this to a whole model and freezes the rest.  Compile the model afterwards.

        Args:
            rank: R, at least 1.
            lora_alpha: As in `LowRank`; None takes R.

        Raises:
            ValueError: For a rank below 1, a layer that is not built, or one with adapters.
        """
        if not self.built or self.adapters():
            raise ValueError(
                "a layer must be built and have no adapters for `enable_lora`. Received: "
                f"{self.name!r}, which {'has some' if self.built else 'is not built'}"
            )
        for name in self.adaptable:
            _attach(self, name, rank, rank if lora_alpha is None else lora_alpha, 0.0)
            getattr(self, name).trainable = False

    def adapter(self, kernel):
        """The `LowRank` of a kernel's name, or None."""
        return getattr(self, f"{kernel}_lora", None)

    def scale(self, kernel):
        """The scales of a kernel of 8 bits by its name, or None."""
        return getattr(self, f"{kernel}_scale", None)

    def product(self, inputs, kernel):
        """x W by a kernel's name, (N, I) -> (N, O), in whichever number of bits it is kept."""
        variable, scale = getattr(self, kernel), self.scale(kernel)
        flat = ops.reshape(variable, self.adaptable_shape)
        return ops.matmul(inputs, flat) if scale is None else int8_product(inputs, flat, scale)

    def adapters(self):
        """Kernel variable -> its `LowRank`, of those that have one, as pairs."""
        found = ((getattr(self, name), self.adapter(name)) for name in self.adaptable)
        return [(kernel, lora) for kernel, lora in found if lora is not None]

    def merged(self):
        """`(variable, array)` of all that holds a kernel with an adapter, with that in it, a list.

        A kernel of 8 bits is rounded again, with new scales.
        """
        pairs = []
        for name in self.adaptable:
            kernel, lora, scale = getattr(self, name), self.adapter(name), self.scale(name)
            if lora is None:
                continue
            if scale is None:
                pairs.append((kernel, merged(kernel, lora)))
                continue
            flat = restored(ops.reshape(kernel, self.adaptable_shape), scale)
            values, new_scale = rounded(flat + lora.product())
            pairs += [(kernel, ops.reshape(values, kernel.shape)), (scale, new_scale)]
        return pairs

    def adapted(self, outputs, kernel, inputs, training):
        """`outputs`, x W, with what the kernel's `LowRank` adds, if it has one."""
        lora = self.adapter(kernel)
        return outputs if lora is None else outputs + lora(inputs, training=training)

    def save_own_variables(self, store):
        arrays = {id(variable): array for variable, array in self.merged()}
        if not arrays:
            super().save_own_variables(store)
            return
        for i, variable in enumerate(stored_variables(self)):
            store[str(i)] = arrays.get(id(variable), variable)


class Dense(Adaptable, keras.layers.Dense):
    """Keras's layer, whose kernel can be adapted."""

    def call(self, inputs, training=None):
        return self.adapted(super().call(inputs, training=training), "kernel", inputs, training)

    def quantize(self, mode=None, type_check=True, config=None):
        """Keeps the kernel in 8 bits, as Keras's Dense does: `keras_vit.layers.quantization`."""
        check_int8(mode, config)
        with scopes_of(self.kernel):
            super().quantize(mode, type_check=False, config=config)

    def _int8_call(self, inputs, training=None):
        outputs = super()._int8_call(inputs, training=training)
        return self.adapted(outputs, "kernel", inputs, training)


def merged(kernel, lora):
    """A kernel with its `LowRank`: float32 in the kernel's shape, a NumPy array."""
    array = ops.convert_to_numpy(kernel).astype("float32")
    return array + lora.product().reshape(array.shape)


def adaptable_layers(layer):
    """The `Adaptable` layers in a layer or model, in the order of their making."""
    for part in parts_of(layer).values():
        if isinstance(part, Adaptable):
            yield part
        yield from adaptable_layers(part)


def adapters_of(model):
    """`(kernel variable, LowRank)` of each adapted kernel in a layer or model, a list."""
    return [pair for layer in adaptable_layers(model) for pair in layer.adapters()]


def add_lora(model, shapes, alpha, rate=0.0):
    """Gives kernels a `LowRank` each.

    Args:
        model: A layer or model that is built.
        shapes: Path of a kernel's variable -> rank.
        alpha: As in `LowRank`.
        rate: Its dropout.

    Raises:
        ValueError: For a path that is no adaptable kernel's, or a kernel that has one.
    """
    places = {
        getattr(layer, name).path: (layer, name)
        for layer in adaptable_layers(model)
        for name in layer.adaptable
    }
    unknown = sorted(set(shapes) - set(places))
    if unknown or not shapes:
        raise ValueError(
            "LoRA is for the kernels of the attention and the MLPs of encoder blocks. Received: "
            f"{unknown[0] if unknown else f'{model.name!r}, which has none of them'}"
        )
    if adapters_of(model):
        raise ValueError("a model has one adapter. Received: a second one; call `merge_lora` first")
    for path, rank in shapes.items():
        layer, name = places[path]
        _attach(layer, name, rank, alpha, rate)
    _forget_traces(model)


def _attach(layer, name, rank, alpha, rate):
    features_in, features_out = layer.adaptable_shape
    *scopes, _ = getattr(layer, name).path.split("/")
    lora = LowRank(rank, features_out, alpha, rate, dtype=source_policy(layer), name=f"{name}_lora")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        lora.build((None, features_in))
        lora.built = True
    # As Keras's own `enable_lora` does to a layer that is built.
    layer._tracker.unlock()
    setattr(layer, lora.name, lora)
    layer._tracker.lock()


def merge_lora(model):
    """Adds what each `LowRank` has learned to its kernel and takes it away: an ordinary model.

    What is frozen stays frozen; `compile` the model again to train it.

    Args:
        model: A layer or model.

    Returns:
        The model.
    """
    for layer in adaptable_layers(model):
        for variable, array in layer.merged():
            variable.assign(array)
        for _, lora in layer.adapters():
            # Functions that were traced before go on adding A B.
            lora.b.assign(ops.zeros(lora.b.shape))
            layer._tracker.unlock()
            layer._tracker.untrack(lora)
            delattr(layer, lora.name)
            layer._tracker.lock()
    _forget_traces(model)
    return model


def _forget_traces(model):
    for name in ("train_function", "test_function", "predict_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def merged_arrays(model):
    """Variable path -> array of an ordinary model, in which each adapted kernel is merged."""
    merged_kernels = {kernel.path: merged(kernel, lora) for kernel, lora in adapters_of(model)}
    skipped = {v.path for _, lora in adapters_of(model) for v in lora.weights}
    return {
        v.path: merged_kernels.get(v.path, ops.convert_to_numpy(v.value))
        for v in model.weights
        if v.path not in skipped
    }
