"""Keras models -> SavedModels in TensorFlow Serving's layout, checked before they are published."""

import dataclasses
import json
import pathlib
import platform

import keras
import tensorflow as tf

from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of
from keras_vit.models.task import ACTIVATIONS, task_of
from keras_vit.serving import server_files
from keras_vit.serving.checks import CheckReport, check_saved_model
from keras_vit.serving.forward import free_patch_size, tensorflow_forward
from keras_vit.serving.options import ServingOptions
from keras_vit.serving.signatures import ServingModule
from keras_vit.serving.versions import new_version
from keras_vit.version import __version__

MODEL_JSON = "model.json"
FORMAT = "keras_vit.saved_model/1"


def export(
    model,
    directory,
    *,
    class_names=None,
    metrics=None,
    top_k=5,
    activation=None,
    on_bad_image="error",
    max_batch_size=ServingOptions.max_batch_size,
    max_pixels=ServingOptions.max_pixels,
    attention=False,
    jit=False,
    dtype=None,
    quantization=None,
    warm_up=False,
    batching=False,
):
    """Writes a model as a SavedModel that takes the bytes of image files, `directory/<version>/`.

    The version is one above the highest there.  It is written under another name, run in a process
    with TensorFlow alone, compared with the model, and renamed when it is complete, so that a
    server that watches `directory` never sees half of one.

    Signatures: `serving_default` takes `image_bytes`, string (B,); `images` takes uint8
    (B, H, W, 3) of any size.  Both return `scores` (B, C), the model's logits, and of the best
    `top_k` classes their `class_ids`, `classes` (names) and `probabilities` (B, k).  Of a model of
    several labels there is `present` too, bool (B, C), whether each label reaches its threshold; of
    a regression they return `values` (B, C) alone beside the scores.  `tensors`
    takes preprocessed float32 (B, h, w, 3), of a model with `dynamic_image_size` of any size that
    patches fill, and returns `logits` (B, C).  `features` takes
    `image_bytes` and returns the output (B, D) of the layer `pre_logits`, if there is one, and
    `attention`, if asked for, what the heads of the last encoder block attend to, (B, k, T, T).

    Args:
        model: functional `keras.Model` from (B, h, w, 3) images to (B, C) logits, of this
            package or cut from one, or with an attribute `preprocessing`; optionally with
            `class_names`, `config` and `origin`.
        directory: folder of the versions; it is made if needed.
        class_names: C names; None takes the model's own, or the numbers of the classes.
        metrics: a dict of plain values about the model's quality, for `assets/model.json`.
        top_k: see `keras_vit.serving.options.ServingOptions`, as for all up to `quantization`.
        activation: `"softmax"`, `"sigmoid"`, or `"none"` for the logits themselves; None takes that
            of the model's task, softmax for one class an image.
        on_bad_image: `"error"` or `"mark"`.
        max_batch_size: images in a request.
        max_pixels: pixels of an image.
        attention: whether there is that signature.
        jit: whether XLA compiles the model.
        dtype: None or `"bfloat16"`.
        quantization: None or `"int8"`.
        warm_up: whether requests that a server replays before it serves are written to
            `assets.extra`; this needs the package tensorflow-serving-api.
        batching: whether TensorFlow Serving's batching parameters are written to `directory`, where
            there are none yet.  It needs `on_bad_image="mark"`: a batch holds the requests of
            several clients.

    Returns:
        `pathlib.Path` of the new version's folder.

    Raises:
        ValueError: for a model without (B, C) logits or without RGB input, a number of names that
            is not C, an option that is none, or a backend other than TensorFlow and JAX.
        ImportError: if `warm_up` is asked for and tensorflow-serving-api is not installed.
        ExportError: if the written model does not reproduce the numbers of `model`, or accepts
            what must be refused.
        OSError: if the folder cannot be written.
    """
    options = ServingOptions(
        top_k=top_k,
        activation=activation,
        on_bad_image=on_bad_image,
        max_batch_size=max_batch_size,
        max_pixels=max_pixels,
        attention=attention,
        jit=jit,
        dtype=dtype,
        quantization=quantization,
    )
    return export_with_report(
        model,
        directory,
        options,
        class_names=class_names,
        metrics=metrics,
        warm_up=warm_up,
        batching=batching,
    )[0]


def export_with_report(
    model, directory, options, *, class_names=None, metrics=None, warm_up=False, batching=False
) -> tuple[pathlib.Path, CheckReport]:
    """`export` with its options as one value; returns what the check saw, too."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    model = network_of(model)
    num_classes = checked_num_classes(model)
    names = checked_class_names(class_names, model, num_classes)
    task = task_of(model)
    activation = options.activation or ACTIVATIONS[task.kind]
    if task.kind != CLASSIFICATION and activation != ACTIVATIONS[task.kind]:
        raise ValueError(
            f"`activation` must be {ACTIVATIONS[task.kind]!r} for a model of the task "
            f"{task.kind!r}. Received: {activation!r}"
        )
    top_k = min(options.top_k, num_classes)
    options = dataclasses.replace(options, top_k=top_k, activation=activation)
    if warm_up:
        server_files.check_installed()
    if batching and options.on_bad_image != "mark":
        raise ValueError(
            "`batching` must go with on_bad_image='mark', or a bad image fails the requests that "
            f"happen to be in its batch. Received: on_bad_image={options.on_bad_image!r}"
        )
    module = ServingModule(
        *tensorflow_forward(model, options),
        preprocessing_of(model),
        names or [str(class_id) for class_id in range(num_classes)],
        options,
        task,
        patch_size=free_patch_size(model),
    )
    description = describe(
        model, names, metrics, dataclasses.asdict(options), sorted(module.endpoints)
    )
    with new_version(directory) as (temporary, publish):
        tf.saved_model.save(module, str(temporary), signatures=dict(module.endpoints))
        assets = temporary / "assets"
        assets.mkdir(exist_ok=True)
        (assets / MODEL_JSON).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if warm_up:
            server_files.write_requests(temporary, preprocessing_of(model).image_size, description)
        report = check_saved_model(temporary, model, options)
        version = publish()
    if batching:
        server_files.write_batching_parameters(directory, options.max_batch_size)
    return version, report


def describe(model, class_names, metrics, options, signatures):
    """What `assets/model.json` says: everything that a reader needs and the graph does not show.

    Args:
        model: as in `export`.
        class_names: names or None.
        metrics: a dict of plain values or None.
        options: a dict of plain values.
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
        "preprocessing": dataclasses.asdict(preprocessing_of(model)),
        "num_classes": int(model.outputs[0].shape[-1]),
        "class_names": class_names,
        **({} if getattr(model, "task", None) is None else {"task": model.task.describe()}),
        **options,
        "signatures": signatures,
        "origin": getattr(model, "origin", None),
        "metrics": metrics,
        "versions": versions(),
    }


def versions():
    """What an export was written with, a dict of texts."""
    return {
        "keras_vit": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
    }


def checked_num_classes(model):
    """C of a model that can be exported.

    Raises:
        ValueError: for a model whose preprocessing is not known, without (B, C) logits or RGB
            input.
    """
    preprocessing = preprocessing_of(model)
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
    expected = (None, *preprocessing.image_size, 3)
    received = [tuple(tensor.shape) for tensor in model.inputs]
    if received not in ([expected], [(None, None, None, 3)]):
        raise ValueError(f"`model` must take images {expected}. Received inputs: {received}")
    return int(model.outputs[0].shape[-1])


def checked_class_names(class_names, model, num_classes):
    """The names as a list of texts, or None.

    Raises:
        ValueError: if there are not as many as classes.
    """
    names = getattr(model, "class_names", None) if class_names is None else class_names
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must name each of the {num_classes} classes. Received: {len(names)}"
        )
    return names
