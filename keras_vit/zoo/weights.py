"""Weights into a model that is there already: all of them, or none and the reason."""

import keras
import numpy as np

from keras_vit.checkpoints.catalog import resolve
from keras_vit.checkpoints.containers import files, keras_archive
from keras_vit.errors import CheckpointError
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.families import FAMILIES, fields_of_all
from keras_vit.models.pixel_model import network_of
from keras_vit.models.presets import PRESETS
from keras_vit.zoo import memory, opening
from keras_vit.zoo.saving import describe

# Fields on which the numbers depend, beside the arrays.
NUMERIC_FIELDS = fields_of_all("changes_numbers")
# Fields in which the presets differ.
VARIANT_FIELDS = fields_of_all("tells_presets")


def load_weights(model, source, *, format=None, sha256=None):
    """Gives a model the weights of a file that fits it without any difference.

    Nothing is resized, left out or started anew, as `from_pretrained` can.  Everything is read and
    tested before the first variable changes, so that an error leaves the model as it was.

    Args:
        model: a model of this package.
        source: what `from_pretrained` takes, or a `.weights.h5` file that Keras wrote of such a
            model.
        format: name of the file's format; None finds it.
        sha256: 64 hexadecimal digits that the file's digest must have.

    Returns:
        The model.

    Raises:
        CheckpointError: if the file cannot be read, or is of another model; names both models and
            lists all differences.
        DownloadError: if a file that is not here cannot be had.
        TypeError: for a model that is not of this package.
    """
    given, model = model, network_of(model)
    if not isinstance(model, ImageClassifier):
        raise TypeError(f"`model` must be a model of keras_vit. Received: {type(model).__name__}")
    path, _ = resolve.locate(source, sha256)
    path = files.file_of(path)
    shapes = {v.path: tuple(v.shape) for v in model.weights}
    if path.suffix == ".h5" and format is None:
        weights = keras_archive.open_weights(path)
        arrays = weights.read(weights.match(shapes))
    else:
        found = opening.open_file(path, format, model.config.image_size)
        check_fits(path, (found.architecture, found.variables), (describe(model.config), shapes))
        arrays = found.read(set(found.variables))
    _assign_all(model, arrays)
    return given


def check_fits(path, file, model):
    """Raises CheckpointError unless a file's arrays are a model's, and mean the same there.

    Args:
        path: for error messages.
        file: (`Architecture`, variable path -> shape) of the file.
        model: The same of the model.
    """
    (stored, theirs), (wanted, ours) = file, model
    problems = [
        f"- {name} {shape} is missing" for name, shape in ours.items() if name not in theirs
    ]
    problems += [
        f"+ {name} {shape} has no place in the model"
        for name, shape in theirs.items()
        if name not in ours
    ]
    problems += [
        f"{name} has the shape {theirs[name]}, expected {shape}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    # Only a configuration tells apart what is pooled how from the same arrays.
    compared = (*NUMERIC_FIELDS, "pooling") if "image_size" in stored.fields else NUMERIC_FIELDS
    problems += [
        f"`{field}` is {stored.fields[field]!r} in the file, {wanted.fields.get(field)!r} here"
        for field in compared
        if field in stored.fields and stored.fields[field] != wanted.fields.get(field)
    ]
    if _grid(stored) and _grid(stored) != _grid(wanted):
        problems.append(f"positions on a grid of {_grid(stored)}, expected {_grid(wanted)}")
    if problems:
        names = f"the file is of {variant_of(stored)}, the model is {variant_of(wanted)}"
        raise CheckpointError(path, [names, *problems])


def variant_of(architecture):
    """What a person calls a model: the preset's name, classes, representation layer, positions.

    >>> from keras_vit.models.presets import get_preset
    >>> variant_of(describe(get_preset("ViT-B/16")))
    'ViT-B/16 (1000 classes, 197 positions)'
    """
    fields = architecture.fields
    name = f"no named model, family {architecture.family}"
    for preset, config in PRESETS.items():
        same = FAMILIES[architecture.family].config_class is type(config) and all(
            fields.get(field, getattr(type(config), field, None)) == getattr(config, field, None)
            for field in VARIANT_FIELDS
        )
        if same:
            name = preset
    details = [f"{fields['num_classes']} classes"]
    if fields.get("representation_size"):
        details.append(f"pre_logits of {fields['representation_size']}")
    if architecture.num_positions:
        details.append(f"{architecture.num_positions} positions")
    return f"{name} ({', '.join(details)})"


def _grid(architecture):
    """(h, w) of learned positions, where it is known."""
    fields = architecture.fields
    if not architecture.num_positions or "image_size" not in fields:
        return architecture.grid
    return FAMILIES[architecture.family].config_class(**fields).grid


def _assign_all(model, arrays):
    """Assigns what is known to fit; what stops it midway undoes it."""
    variables = {v.path: v for v in model.weights}
    before = {}
    try:
        # In the model's order, as in `zoo`.
        for path in [path for path in variables if path in arrays]:
            before[path] = np.array(keras.ops.convert_to_numpy(variables[path].value))
            variables[path].assign(memory.tensor(arrays.pop(path)))
    except BaseException:
        for path, array in before.items():
            variables[path].assign(array)
        raise
