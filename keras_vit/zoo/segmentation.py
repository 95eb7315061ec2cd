"""Segmentation models in `.keras` files: opened as data, like all others."""

import dataclasses
import os
import pathlib

import numpy as np
from absl import logging

from keras_vit.checkpoints.containers import keras_archive
from keras_vit.errors import CheckpointError
from keras_vit.layers.initializers import blank_initialization
from keras_vit.models.families import FAMILIES
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel
from keras_vit.zoo import keras_archive_config, memory

_NAME = SegmentationModel.__name__
_PARTS = {"backbone", "head"}
_FILES = ("model.keras",)


def find_segmentation(source):
    """The path of a `.keras` file with a segmentation model that a source stands for, or None.

    Args:
        source: What `keras_vit.from_pretrained` takes; a file or the folder of a run, or else None
            is returned.
    """
    path = pathlib.Path(os.path.expanduser(os.fspath(source)))
    if path.is_dir():
        path = next((path / name for name in _FILES if (path / name).is_file()), path)
    if path.suffix != ".keras" or not path.is_file():
        return None
    return path if keras_archive.class_name_of(path) == _NAME else None


def load_segmentation(path, *, name=None, dtype=None):
    """The segmentation model in a `.keras` file.

    Args:
        path: Of the file.
        name: Name of the Keras model.
        dtype: dtype or policy of the layers; None takes the global one of Keras.

    Returns:
        A `SegmentationModel`.

    Raises:
        CheckpointError: If the file is damaged or does not hold exactly such a model.
    """
    class_name, stored, weights = keras_archive.open_model(path)
    if class_name != _NAME:
        raise CheckpointError(path, f"holds a {class_name[:60]!r} and no {_NAME}")
    family, known, head = _read(path, stored, len(weights.headers))
    with blank_initialization(memory.blank):
        backbone = family.model_class(
            known.config,
            preprocessing=known.preprocessing,
            origin={**known.origin, "file": path.name},
            dtype=dtype,
        )
        model = SegmentationModel(
            backbone, head, stored.get("class_names"), name=name or "segmentation"
        )
    variables = {variable.path: variable for variable in model.weights}
    arrays = weights.match({path: tuple(v.shape) for path, v in variables.items()})
    if known.num_frozen:
        logging.info("%s: the model was saved with frozen layers; all are loaded trainable", path)
    for variable_path, value in weights.read(arrays).items():
        if not np.all(np.isfinite(value)):
            raise CheckpointError(path, f"{variable_path} has values that are not finite")
        variables[variable_path].assign(value)
    return model


def _read(path, stored, num_arrays):
    """(family, `StoredModel` of the backbone, `SegmentationHead`)."""
    try:
        family = FAMILIES[stored["backbone"]]
        head = keras_archive_config.instance(SegmentationHead, stored["head"])
        names = stored.get("class_names")
        is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if names is not None and not (is_named and len(names) == head.num_classes):
            raise ValueError(f"the class names are not {head.num_classes} texts")
        if head.decoder_depth > num_arrays:
            raise ValueError(f"{head.decoder_depth} blocks are more than its arrays can fill")
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(path, f"has an invalid model configuration: {error}") from error
    rest = {k: v for k, v in stored.items() if k not in _PARTS}
    known = keras_archive_config.read(
        path, family.model_class.__name__, {**rest, "class_names": None}, num_arrays
    )
    if known.config.num_classes:
        raise CheckpointError(path, "has an invalid model configuration: two heads")
    return family, dataclasses.replace(known, class_names=None), head
