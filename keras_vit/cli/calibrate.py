"""`keras-vit calibrate`: the temperature that makes a classifier's probabilities honest."""

import json

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "choose the temperature of a classifier's probabilities on a split, and write the model"
USAGE = "keras-vit calibrate --model=SOURCE --dataset=NAME [FLAGS] PATH.keras"


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define_model(flag_values, required=True)
    flags.DEFINE_string(
        "dataset", None, "as in `keras-vit evaluate`", required=True, flag_values=flag_values
    )
    flags.DEFINE_string(
        "split",
        "validation",
        "name of the split, not the one that the model was trained on",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 64, "images in one call of the model", lower_bound=1, flag_values=flag_values
    )
    training_flags.define_data(flag_values)
    flags.DEFINE_boolean(
        "overwrite", False, "replace the file if it exists", flag_values=flag_values
    )
    flags.DEFINE_boolean("json", False, "print the numbers as JSON", flag_values=flag_values)


def run(flag_values, arguments):
    """Calibrates, writes the model and prints the numbers."""
    if len(arguments) != 1 or not arguments[0].endswith(".keras"):
        raise UsageError(
            "calibrate needs one path to write to, which ends in .keras. Received: "
            f"{' '.join(arguments) or 'none'}"
        )
    path = output.check_new_file(arguments[0], flag_values.overwrite)

    import keras_vit
    from keras_vit.data import pipeline
    from keras_vit.evaluators.calibration import calibrate

    info = pipeline.resolve(
        flag_values.dataset, flag_values.data_dir, download=flag_values.download
    )
    info.num_examples(flag_values.split)  # an unknown split is found before a large model is read
    model = keras_vit.from_pretrained(flag_values.model)
    numbers = calibrate(model, info, flag_values.split, flag_values.batch_size)
    model.save(path)
    if flag_values.json:
        print(json.dumps(numbers))
        return
    rows = [
        ("temperature", f"{numbers['temperature']:.4f}"),
        ("calibration error", f"{numbers['ece_before']:.4f} -> {numbers['ece']:.4f}"),
        ("loss", f"{numbers['loss_before']:.4f} -> {numbers['loss']:.4f}"),
        ("written to", path),
    ]
    output.print_summary(f"calibrated {flag_values.model} on {info.name} {flag_values.split}", rows)
