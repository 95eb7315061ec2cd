"""`keras-vit export`: a SavedModel for TensorFlow Serving."""

import json
import pathlib

from absl import flags

from keras_vit.cli import output
from keras_vit.cli.errors import CommandError, UsageError

SUMMARY = "write a model as a SavedModel that takes image bytes, in TensorFlow Serving's layout"
USAGE = "keras-vit export --model=SOURCE [FLAGS] DIR"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "model",
        None,
        "a .keras file, an official checkpoint, the folder of a training run, or a name of "
        "`keras-vit models --checkpoints`",
        required=True,
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
        "softmax",
        ["softmax", "sigmoid"],
        "makes probabilities of the model's scores",
        flag_values=flag_values,
    )


def run(flag_values, arguments):
    """Exports, and prints where to and with which signatures."""
    if len(arguments) != 1:
        raise UsageError(f"export needs one folder to write into. Received: {len(arguments)}")
    directory = pathlib.Path(arguments[0])
    output.check_writable_folder(directory)
    class_names = _read_class_names(flag_values.class_names)

    import keras_vit
    from keras_vit.serving.export import MODEL_JSON, export

    model = keras_vit.from_pretrained(flag_values.model)
    version = export(
        model,
        directory,
        class_names=class_names,
        top_k=flag_values.top_k,
        activation=flag_values.activation,
    )
    description = json.loads((version / "assets" / MODEL_JSON).read_text(encoding="utf-8"))
    output.print_summary(
        f"exported {model.name}, {description['num_classes']} classes; the written model gives the "
        "logits of the original",
        [
            ("SavedModel", version),
            ("description", version / "assets" / MODEL_JSON),
            ("signatures", ", ".join(description["signatures"])),
            ("serve with", f"tensorflow_model_server --model_base_path={directory.absolute()}"),
        ],
    )


def _read_class_names(path):
    if path is None:
        return None
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} must be UTF-8 text with one class name a line") from error
    return text.splitlines()
