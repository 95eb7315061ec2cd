"""Keras models -> SavedModels in TensorFlow Serving's layout, checked before they are published."""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import uuid

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.decode import decode_image
from keras_vit.data.preprocess import evaluation_image
from keras_vit.serving.forward import has_features, tensorflow_forward
from keras_vit.serving.signatures import ACTIVATIONS, ServingModule
from keras_vit.version import __version__

MODEL_JSON = "model.json"
FORMAT = "keras_vit.saved_model/1"

# Largest difference between the logits of the export and those of `predict`, relative to
# max|logit|.  float32: other fusions of the same operations.  The half formats keep 8 and 11 bits,
# and other fusions round in other places.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}

# (height, width) of the images that an export is checked on.
_SAMPLE_SIZES = ((48, 64), (64, 48), (33, 57))


class ExportError(RuntimeError):
    """An export that was not published because it does not compute what the model computes."""


def export(model, directory, *, class_names=None, top_k=5, activation="softmax"):
    """Writes a model as a SavedModel that takes JPEG or PNG bytes, `directory/<version>/`.

    The version is one above the highest there.  It is written under another name, loaded again and
    compared with the model, and renamed when it is complete, so that a server that watches
    `directory` never sees half of one.

    Signatures: `serving_default` takes `image_bytes`, string (B,); `images` takes uint8
    (B, H, W, 3) of any size.  Both return `scores` (B, C), the model's logits, and of the best
    `top_k` classes their `class_ids`, `classes` (names) and `probabilities` (B, k).  `tensors`
    takes preprocessed float32 (B, h, w, 3) and returns `logits` (B, C).  `features` takes
    `image_bytes` and returns the output (B, D) of the layer `pre_logits`, if there is one.

    Args:
        model: functional `keras.Model` from (B, h, w, 3) images to (B, C) logits, with attributes
            `preprocessing` and, optionally, `class_names`, `config` and `origin`.
        directory: folder of the versions; it is made if needed.
        class_names: C names; None takes the model's own, or the numbers of the classes.
        top_k: number of classes in an answer, at most C are given.
        activation: `"softmax"` or `"sigmoid"`, makes `probabilities` of the logits.

    Returns:
        `pathlib.Path` of the new version's folder.

    Raises:
        ValueError: for a model without (B, C) logits or without RGB input, a number of names that
            is not C, an unknown activation, a `top_k` below 1, or a backend other than TensorFlow
            and JAX.
        ExportError: if the written model does not reproduce the logits of `model`.
        OSError: if the folder cannot be written.
    """
    num_classes = _checked_num_classes(model)
    names = _checked_class_names(class_names, model, num_classes)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {tuple(ACTIVATIONS)}. Received: {activation!r}"
        )
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1. Received: {top_k}")
    top_k = min(top_k, num_classes)
    forward, variables = tensorflow_forward(model)
    module = ServingModule(
        forward,
        has_features(model),
        variables,
        model.preprocessing,
        names or [str(class_id) for class_id in range(num_classes)],
        top_k,
        activation,
    )
    description = describe(model, names, top_k, activation, sorted(module.endpoints))
    directory = pathlib.Path(directory)
    with _made(directory), _temporary_folder(directory) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=dict(module.endpoints))
        assets = temporary / "assets"
        assets.mkdir(exist_ok=True)
        (assets / MODEL_JSON).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        check(temporary, model)
        return _publish(temporary, directory)


def describe(model, class_names, top_k, activation, signatures):
    """What `assets/model.json` says: everything that a reader needs and the graph does not show.

    Args:
        model: as in `export`.
        class_names: names or None.
        top_k: number of classes in an answer.
        activation: name of the activation.
        signatures: names of the signatures.

    Returns:
        A dict that JSON can write; the same for the same model.
    """
    config = getattr(model, "config", None)
    return {
        "format": FORMAT,
        "name": model.name,
        "model": type(model).__name__,
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else None,
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "num_classes": int(model.outputs[0].shape[-1]),
        "class_names": class_names,
        "activation": activation,
        "top_k": top_k,
        "signatures": signatures,
        "origin": getattr(model, "origin", None),
        "versions": {
            "keras_vit": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
        },
    }


def check(saved_model, model):
    """Loads a SavedModel and compares its logits with the model's, on images of several sizes.

    Args:
        saved_model: its folder.
        model: the model that it was made from.

    Returns:
        The largest difference relative to max|logit|.

    Raises:
        ExportError: if it is above `TOLERANCES`, or not a number.
    """
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in _SAMPLE_SIZES]
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    tensors = tf.stack([evaluation_image(decode_image(e), model.preprocessing) for e in encoded])
    # In batches of the same size, by which the libraries below choose their kernels: a BiT-R50x1
    # differs by 3e-5 between batches of 1 and of 8.
    expected, expected_first = (
        keras.ops.convert_to_numpy(model.predict_on_batch(batch.numpy()))
        for batch in (tensors, tensors[:1])
    )
    signatures = tf.saved_model.load(str(saved_model)).signatures
    received = {
        "serving_default": (signatures["serving_default"](image_bytes=encoded)["scores"], expected),
        "images": (signatures["images"](images=images[0][np.newaxis])["scores"], expected_first),
        "tensors": (signatures["tensors"](tensors=tensors)["logits"], expected),
    }
    tolerance = TOLERANCES[getattr(model, "compute_dtype", "float32")]
    scale = np.max(np.abs(expected.astype(np.float64)))
    largest = 0.0
    for name, (logits, reference) in received.items():
        difference = float(np.max(np.abs(logits.numpy().astype(np.float64) - reference)))
        if not difference <= tolerance * scale:
            raise ExportError(
                f"the export does not reproduce the model, nothing was published: {name!r} differs "
                f"by {difference:.3g}, and {tolerance:.0e} of max|logit| {scale:.3g} is allowed"
            )
        largest = max(largest, difference / scale if scale else 0.0)
    return largest


def _checked_num_classes(model):
    if not hasattr(model, "preprocessing"):
        raise ValueError(
            "`model` must have a `preprocessing`, as the models of keras_vit do. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    config = getattr(model, "config", None)
    if (
        len(model.outputs) != 1
        or len(model.outputs[0].shape) != 2
        or not getattr(config, "num_classes", 1)
    ):
        raise ValueError(
            "`model` must return one (B, C) tensor of logits. Received outputs of the shapes "
            f"{[tuple(output.shape) for output in model.outputs]}, num_classes="
            f"{getattr(config, 'num_classes', None)}; make it with a head and a pooling"
        )
    expected = (None, *model.preprocessing.image_size, 3)
    received = [tuple(tensor.shape) for tensor in model.inputs]
    if received != [expected]:
        raise ValueError(f"`model` must take images {expected}. Received inputs: {received}")
    return int(model.outputs[0].shape[-1])


def _checked_class_names(class_names, model, num_classes):
    names = getattr(model, "class_names", None) if class_names is None else class_names
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must name each of the {num_classes} classes. Received: {len(names)}"
        )
    return names


@contextlib.contextmanager
def _made(directory):
    """Makes a folder, and removes what it made if nothing came of it."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextlib.contextmanager
def _temporary_folder(directory):
    """A folder that no server takes for a version, and that does not stay."""
    temporary = directory / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary, directory):
    """Renames a complete export to the next version."""
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    version = next_version(directory)
    while True:
        target = directory / str(version)
        try:
            os.rename(temporary, target)
        except OSError:
            # Another export took the number; anything else is an error.
            if not target.exists():
                raise
            version += 1
            continue
        _sync(directory)
        return target


def next_version(directory):
    """One above the highest version in a folder; 1 where there is none."""
    names = (path.name for path in pathlib.Path(directory).iterdir())
    return 1 + max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def latest_version(directory):
    """The folder of the highest version, or the folder itself if it is a SavedModel.

    Raises:
        FileNotFoundError: if there is none.
    """
    directory = pathlib.Path(directory)
    if (directory / "saved_model.pb").is_file():
        return directory
    if directory.is_dir():
        highest = directory / str(next_version(directory) - 1)
        if (highest / "saved_model.pb").is_file():
            return highest
    raise FileNotFoundError(
        f"there is no SavedModel: neither {directory}/saved_model.pb nor a version below it"
    )


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
