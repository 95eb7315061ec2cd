"""`keras-vit features`: embeddings or grids of image files, in one file."""

import json

from absl import flags

from keras_vit.cli import errors, output, streams, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "write the features of image files: embeddings, or the grid of the last block"
USAGE = "keras-vit features MODEL PATH... --output=FILE.npz [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "output",
        None,
        "the file to write, .npz or .h5 with the arrays `features` and `paths`, or .parquet with a "
        "row for each image; an interrupted command goes on where it stopped",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "layout",
        "embedding",
        ["embedding", "grid"],
        "what the head sees, (n, D), or the patches of the last block, (n, h, w, D)",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "float16"], "of what is written", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "batch_size", 32, "images at a time", lower_bound=1, flag_values=flag_values
    )
    training_flags.define_max_pixels(flag_values)
    training_flags.define_orientation(flag_values)
    flags.DEFINE_boolean(
        "overwrite", False, "replace the output if it exists", flag_values=flag_values
    )
    flags.DEFINE_boolean("json", False, "print what was done as JSON", flag_values=flag_values)


def run(flag_values, arguments):
    """Writes the features; returns 1 if an image could not be read."""
    if len(arguments) < 2:
        raise UsageError("features needs a model and paths of image files or folders")
    path = output.check_new_file(flag_values.output, flag_values.overwrite)
    if path.suffix not in (".npz", ".h5", ".parquet"):
        raise UsageError(
            f"features needs --output=FILE.npz, FILE.h5 or FILE.parquet. Received: {path}"
        )

    import keras_vit
    from keras_vit.inference.feature_files import check_ending
    from keras_vit.inference.features import write_features

    check_ending(path)  # before the model is read
    source, *paths = arguments
    model = training_flags.turn(keras_vit.from_pretrained(source), flag_values)
    count, failures = write_features(
        model,
        paths,
        path,
        layout=flag_values.layout,
        dtype=flag_values.dtype,
        batch_size=flag_values.batch_size,
        max_pixels=flag_values.max_pixels,
        overwrite=flag_values.overwrite,
    )
    for name, error in failures:
        streams.say(f"error: {name}: {error}")
    if flag_values.json:
        print(json.dumps({"images": count, "unreadable": len(failures), "output": str(path)}))
    else:
        rows = [("images", count), ("unreadable", len(failures)), ("written to", path)]
        output.print_summary(f"features of {source}", rows)
    return errors.FAILURE if failures else errors.SUCCESS
