"""`keras-vit export`: a model for servers and other runtimes."""

import dataclasses
import json
import pathlib
import types

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import CommandError, UsageError
from keras_vit.data.splits import TRAIN
from keras_vit.data.tasks import CLASSIFICATION

SUMMARY = "write a model for TensorFlow Serving, as a SavedModel that takes image bytes, or others"
USAGE = "keras-vit export --model=SOURCE [FLAGS] PATH"

FORMATS = ("saved_model", "onnx", "litert")
# The flags of saved_model, and which of them the other formats have.
SAVED_MODEL_FLAGS = (
    *("top_k", "activation", "on_bad_image", "max_batch_size", "max_pixels", "attention", "jit"),
    *("dtype", "warm_up", "batching", "dataset", "split"),
)
OTHERS_FLAGS = {"litert": ("dtype",), "onnx": ("dataset", "split")}
# Of the training split, for the scales of an int8 ONNX file: batches, and images in one.
CALIBRATION = (8, 32)


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define_model(flag_values, required=True)
    flags.DEFINE_enum(
        "format",
        "saved_model",
        FORMATS,
        "saved_model writes PATH/<version>/; onnx and litert write the file PATH, and PATH.json",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "class_names",
        None,
        "a text file with one class name a line; the model's own names by default",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("top_k", 5, "classes in an answer", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_enum(
        "activation",
        None,
        ["softmax", "sigmoid", "none"],
        "makes probabilities of the model's scores; none leaves them as they are; softmax by "
        "default, and of a model of several labels sigmoid",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "on_bad_image",
        "error",
        ["error", "mark"],
        "fail a request that holds a bad image, or say why in its output `error` and answer the "
        "others",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_batch_size",
        256,
        "the largest number of images in a request",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_pixels",
        2**25,
        "the largest height x width of an image that is decoded",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "attention",
        False,
        "add a signature for the attention of the last encoder block",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("jit", False, "compile the model with XLA", flag_values=flag_values)
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16", "float16"],
        "what to compute in (saved_model: float32, bfloat16), or to store weights in (litert: "
        "float32, float16)",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "quantization",
        None,
        ["int8"],
        "store the kernels with 8 bits; onnx computes in 8 bits too: statically, calibrated on 256 "
        "training images of --dataset, or without one dynamically",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "warm_up",
        False,
        "write requests that TensorFlow Serving replays before it serves; needs "
        "tensorflow-serving-api",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "batching",
        False,
        "write TensorFlow Serving's batching parameters beside the versions; needs "
        "--on_bad_image=mark",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "dataset",
        None,
        "data set on whose --split the accuracy of the model and of the export are compared",
        flag_values=flag_values,
    )
    flags.DEFINE_string("split", "test", "split of --dataset", flag_values=flag_values)
    training_flags.define_data(flag_values)
    training_flags.define_orientation(flag_values)
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "replace the file of --format=onnx or litert if it exists",
        flag_values=flag_values,
    )


def run(flag_values, arguments):
    """Exports, and prints where to, with which signatures, and what was measured."""
    if len(arguments) != 1:
        raise UsageError(f"export needs one path to write to. Received: {len(arguments)}")
    path = output.check_output_path(arguments[0], "the export")
    class_names = _read_class_names(flag_values.class_names)
    from keras_vit.zoo.segmentation import find_segmentation

    if find_segmentation(flag_values.model) is not None:
        _export_segmentation(flag_values, path, class_names)
    elif flag_values.format == "saved_model":
        output.check_writable_folder(path)
        _export_saved_model(flag_values, path, class_names)
    else:
        _check_flags(flag_values)
        output.check_new_file(path, flag_values.overwrite)
        _export_file(flag_values, path, class_names)


def _export_segmentation(flag_values, path, class_names):
    """A SavedModel that answers with masks, or an ONNX file of windows."""
    is_onnx = flag_values.format == "onnx"
    for name in ("quantization", *SAVED_MODEL_FLAGS):
        if flag_values[name].present and (is_onnx or name != "max_pixels"):
            kind = " in ONNX" if name == "max_pixels" else ""
            raise UsageError(f"--{name} is not of a segmentation model{kind}")
    if flag_values.format == "litert":
        raise UsageError("a segmentation model is exported with --format=saved_model or onnx")
    import keras_vit
    from keras_vit.serving import segmentation

    if is_onnx:
        output.check_new_file(path, flag_values.overwrite)
    else:
        output.check_writable_folder(path)
    model = training_flags.turn(keras_vit.from_pretrained(flag_values.model), flag_values)
    if is_onnx:
        from keras_vit.serving.onnx_litert import export_segmentation_onnx

        report = export_segmentation_onnx(model, path, class_names=class_names)
        difference, rows = report.difference, _file_rows(path, report)
    else:
        from keras_vit.serving.versions import folder_bytes

        version, difference = segmentation.export_segmentation(
            model,
            path,
            class_names=class_names,
            metrics=_read_metrics(flag_values.model),
            max_pixels=flag_values.max_pixels,
        )
        rows = [
            ("SavedModel", version),
            ("size", f"{folder_bytes(version) / 1e6:.1f} MB"),
            ("description", version / "assets" / segmentation.MODEL_JSON),
            ("signatures", "image, serving_default, tensors"),
        ]
    rows.append(("difference", f"{difference:.1e} of the largest logit, at most"))
    output.print_summary(f"exported {model.name}, {model.head.num_classes} classes", rows)


def _file_rows(path, report):
    """Rows on a file for other runtimes, of its `RuntimeReport`."""
    return [
        ("file", path),
        ("size", f"{path.stat().st_size / 1e6:.1f} MB"),
        ("description", f"{path}.json"),
        ("format", report.format),
    ]


def _check_flags(flag_values):
    for name in SAVED_MODEL_FLAGS:
        if flag_values[name].present and name not in OTHERS_FLAGS[flag_values.format]:
            raise UsageError(f"--{name} is of --format=saved_model, not of {flag_values.format}")


def _export_saved_model(flag_values, directory, class_names):
    from keras_vit.serving.options import ServingOptions

    fields = [field.name for field in dataclasses.fields(ServingOptions)]
    options = ServingOptions(**{name: flag_values[name].value for name in fields})
    info = _data(flag_values)
    from keras_vit.serving.export import MODEL_JSON, export_with_report
    from keras_vit.serving.versions import folder_bytes

    model = _model(flag_values)
    version, report = export_with_report(
        model,
        directory,
        options,
        class_names=class_names,
        metrics=_read_metrics(flag_values.model),
        warm_up=flag_values.warm_up,
        batching=flag_values.batching,
    )
    description = json.loads((version / "assets" / MODEL_JSON).read_text(encoding="utf-8"))
    difference = max(report.differences.values())
    rows = [
        ("SavedModel", version),
        ("size", f"{folder_bytes(version) / 1e6:.1f} MB"),
        ("description", version / "assets" / MODEL_JSON),
        ("signatures", ", ".join(description["signatures"])),
        ("difference", f"{difference:.1e} of the largest output, at most"),
        *(
            (f"batch of {size}", f"{1000 * seconds:.0f} ms on this CPU, JPEGs of 480 x 640")
            for size, seconds in report.seconds.items()
        ),
    ]
    if info is not None:
        from keras_vit.inference.predict import SavedModelClassifier

        rows += _accuracy_rows(model, SavedModelClassifier(version), info, flag_values.split)
    rows.append(("serve with", f"tensorflow_model_server --model_base_path={directory.absolute()}"))
    output.print_summary(
        f"exported {model.name}, {description['num_classes']} classes; a process with TensorFlow "
        "alone gave the numbers of the original",
        rows,
    )


def _data(flag_values):
    """The data set of the flags, or None; an unknown split is found before the model is read."""
    if flag_values.dataset is None:
        return None
    from keras_vit.data import pipeline

    info = pipeline.resolve(
        flag_values.dataset, flag_values.data_dir, download=flag_values.download
    )
    info.num_examples(flag_values.split)
    return info


def _model(flag_values):
    import keras_vit
    from keras_vit.models.task import task_of

    model = training_flags.turn(keras_vit.from_pretrained(flag_values.model), flag_values)
    if flag_values.dataset is not None and task_of(model).kind != CLASSIFICATION:
        raise UsageError(
            "--dataset compares the accuracy of a model of one class an image. Received: a model "
            f"of the task {task_of(model).kind!r}; leave it out"
        )
    return model


def _accuracy_rows(model, exported, info, split):
    """The accuracy of a model and of what was exported, which has `predict_on_batch`, too."""
    from keras_vit.evaluators import classification

    batches = classification.evaluation_batches(model, info, split, 64)
    before = classification.evaluate_batches(model, batches)
    after = classification.evaluate_batches(exported, batches)
    change = after["accuracy"] - before["accuracy"]
    return [
        (
            "accuracy",
            f"{before['accuracy']:.4f} -> {after['accuracy']:.4f} ({change:+.4f}) on "
            f"{before['count']} images of {info.name} {split}",
        )
    ]


def _export_file(flag_values, path, class_names):
    from keras_vit.serving import onnx_litert

    info, model = _data(flag_values), _model(flag_values)
    if flag_values.format == "litert":
        storage = flag_values.quantization or flag_values.dtype or "float32"
        report = onnx_litert.export_litert(model, path, storage=storage, class_names=class_names)
    else:
        report = onnx_litert.export_onnx(
            *(model, path),
            quantization=flag_values.quantization,
            calibration=flag_values.quantization and _calibration(model, info),
            class_names=class_names,
        )
    rows = [
        *_file_rows(path, report),
        ("difference", f"{report.difference:.1e} of the largest logit, at most"),
    ]
    if info is not None:
        run = onnx_litert.onnx_runner(path)
        exported = types.SimpleNamespace(predict_on_batch=lambda tensors: run(tensors)["logits"])
        rows += _accuracy_rows(model, exported, info, flag_values.split)
    output.print_summary(
        f"exported {model.name} to {flag_values.format}; its runtime gave the numbers of the "
        "original",
        rows,
    )


def _calibration(model, info):
    """Batches of the training split, or None without a data set."""
    if info is None:
        return None
    from keras_vit.data import pipeline

    number, size = CALIBRATION
    split = TRAIN if TRAIN in info.split_sizes else next(iter(info.split_sizes))
    data = pipeline.training_dataset(info, split, model.preprocessing, batch_size=size, seed=0)
    return [images.numpy() for images, *_ in data.take(number)]


def _read_metrics(source):
    """What a training run says about its model."""
    file = pathlib.Path(source) / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _read_class_names(path):
    if path is None:
        return None
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} must be UTF-8 text with one class name a line") from error
    return text.splitlines()
