"""Which parts of a layer or model are trained or quantised, as a configuration can hold it.

Keras saves one `trainable` for each layer of a functional model, and none for the layers inside
of a layer, of a model that has a configuration of its own, or for single variables of a layer.
"""

import keras


def parts_of(layer):
    """The layers that a layer or model is made of: name -> layer, in the order of their making.

    Adapters (`keras_vit.layers.lora`) are no part of what a configuration makes.
    """
    if isinstance(layer, keras.Model):
        return {part.name: part for part in layer.layers}
    parts = (part for part in vars(layer).values() if isinstance(part, keras.layers.Layer))
    return {part.name: part for part in parts if not getattr(part, "is_adapter", False)}


def _own_variables(layer):
    """name -> variable of those that were made to be trained and belong to no part."""
    return {variable.name: variable for variable in layer._trainable_variables}


def get_trainable(layer):
    """The `trainable` of all parts that differ from what they are part of.

    Args:
        layer: A layer or model that is built.

    Returns:
        A dict from path ("encoderblock_0/attention", or of a variable, "head/kernel") to its
        `trainable`; the path of the layer itself is "", and it is left out if it is trained.
    """
    found = {} if layer.trainable else {"": False}
    return found | dict(_differences(layer, ""))


def _differences(layer, prefix):
    for name, variable in _own_variables(layer).items():
        if variable.trainable != layer.trainable:
            yield prefix + name, variable.trainable
    for name, part in parts_of(layer).items():
        if part.trainable != layer.trainable:
            yield prefix + name, part.trainable
        yield from _differences(part, f"{prefix}{name}/")


def set_trainable(layer, trainable):
    """Makes trainable what `get_trainable` returned, and freezes the rest.

    Args:
        layer: A layer or model that is built.
        trainable: A dict from path to whether it is trained.

    Raises:
        ValueError: for a path that the layer lacks.
    """
    unknown = set(trainable) - _set(layer, "", trainable, True)
    if unknown:
        raise ValueError(
            f"`trainable` must name parts of {layer.name!r}. Received: {min(unknown)[:60]!r}"
        )


def _set(layer, path, trainable, default):
    """Sets one flag after the other; returns the paths.

    Keras hands a flag on to a layer's parts, but on TensorFlow not where the layer itself has that
    flag already.
    """
    layer.trainable = trainable.get(path, default)
    paths = {path}
    for name, variable in _own_variables(layer).items():
        below = f"{path}/{name}" if path else name
        variable.trainable = trainable.get(below, layer.trainable)
        paths.add(below)
    for name, part in parts_of(layer).items():
        below = f"{path}/{name}" if path else name
        paths |= _set(part, below, trainable, layer.trainable)
    return paths


def freeze_all_but(model, is_trained):
    """Trains adapters (`keras_vit.layers.lora`) and the variables that a function chooses.

    Args:
        model: A model that is built.
        is_trained: A function of a variable's path; it is not asked about what is never trained.
    """
    set_trainable(model, {})
    for variable in model.trainable_variables:
        variable.trainable = "_lora/" in variable.path or bool(is_trained(variable.path))
    _freeze_layers(model)


def _freeze_layers(layer):
    """Says of layers of which no variable is trained that they are not, as Keras's summary shows.

    The model itself stays as it is: what is put upon it is trained.
    """
    for part in parts_of(layer).values():
        if part.weights and not any(variable.trainable for variable in part.weights):
            part.trainable = False
        else:
            _freeze_layers(part)


def all_parts(layer, prefix=""):
    """Pairs of a path ("encoderblock_0/attention") and a layer: the parts, and theirs, in order."""
    for name, part in parts_of(layer).items():
        yield prefix + name, part
        yield from all_parts(part, f"{prefix}{name}/")


def get_quantized(layer):
    """Paths of the parts whose kernels are of 8 bits (`keras_vit.layers.quantization`), a list."""
    return [path for path, part in all_parts(layer) if part.quantization_mode is not None]


def set_quantized(layer, paths):
    """Quantises the parts that `get_quantized` named in another layer of the same architecture.

    Args:
        layer: A layer or model that is built.
        paths: What is quantised already stays as it is.

    Raises:
        ValueError: For a path that is no part's.
        NotImplementedError: For a part without kernels that can be of 8 bits.
    """
    parts = dict(all_parts(layer))
    for path in paths:
        if path not in parts:
            raise ValueError(
                f"`quantized` must name parts of {layer.name!r}. Received: {str(path)[:60]!r}"
            )
        if parts[path].quantization_mode is None:
            parts[path].quantize("int8")


class CompositeLayer(keras.layers.Layer):
    """A layer that is made of layers; its configuration says which are trained and quantised.

    Subclasses call `restore_parts` at the end of their `build`.

    Args:
        trainable_parts: What `get_trainable` returned for a layer like this, or None.
        quantized_parts: What `get_quantized` returned for it, or None.
    """

    def __init__(self, trainable_parts=None, quantized_parts=None, **kwargs):
        super().__init__(**kwargs)
        self._trainable_parts = dict(trainable_parts or {})
        self._quantized_parts = tuple(quantized_parts or ())

    def restore_parts(self):
        """Quantises and freezes what was in the layer whose configuration this one has."""
        set_quantized(self, self._quantized_parts)
        if self._trainable_parts or not self.trainable:
            set_trainable(self, {"": self.trainable, **self._trainable_parts})

    def get_config(self):
        config = super().get_config()
        trainable, quantized = dict(self._trainable_parts), list(self._quantized_parts)
        if self.built:
            trainable = {path: value for path, value in get_trainable(self).items() if path}
            quantized = get_quantized(self)
        parts = {"trainable_parts": trainable, "quantized_parts": quantized}
        return {**config, **{name: value for name, value in parts.items() if value}}
