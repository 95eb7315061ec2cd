"""What tells one model from another: digests of what their answers depend on, and no path."""

import dataclasses
import hashlib
import json
import os
import pathlib

import keras
import numpy as np

from keras_vit.files import open_regular
from keras_vit.models.task import Task


def model_digest(model, preprocessing, class_names, task=None):
    """Hexadecimal SHA-256 of what a model's answers depend on.

    Args:
        model: `keras.Model`.
        preprocessing: `Preprocessing` of its images.
        class_names: Names of its outputs.
        task: Its `Task`, or None.
    """
    facts = {
        "policy": str(model.dtype_policy.name),
        "config": repr(getattr(model, "config", None)),
        "preprocessing": dataclasses.asdict(preprocessing),
        "class_names": list(class_names),
    }
    if task is not None and task != Task():
        facts["task"] = task.describe()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for variable in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value))
        digest.update(f"{variable.path} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def saved_model_digest(folder):
    """Hexadecimal SHA-256 of the names and contents of all files of a SavedModel."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(path.relative_to(folder)))
            with open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
