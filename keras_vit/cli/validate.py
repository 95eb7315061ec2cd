"""`keras-vit validate`: every bad entry of a data set in one pass."""

from absl import flags

from keras_vit.cli import errors, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "list every image, record and folder of a data set that cannot be used, with the reason"
USAGE = "keras-vit validate DATASET [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "splits", None, "names of the splits to check; all by default", flag_values=flag_values
    )
    training_flags.define_data(flag_values)
    training_flags.define_max_pixels(flag_values)
    flags.DEFINE_boolean(
        "json", False, "print one JSON line for each bad entry", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Lists the bad entries; returns 1 if there are any."""
    if len(arguments) != 1:
        raise UsageError(
            "validate takes one data set, a TFDS name or a folder. "
            f"Received: {' '.join(arguments) or 'none'}"
        )
    from keras_vit.data import integrity
    from keras_vit.progress import image_progress

    info, entries = integrity.check(
        arguments[0],
        flag_values.data_dir,
        download=flag_values.download,
        splits=flag_values.splits,
        progress=image_progress,
        max_pixels=flag_values.max_pixels,
    )
    for entry in entries:
        print(entry.as_json() if flag_values.json else entry)
    checked = sum(info.num_examples(split) for split in flag_values.splits or info.split_sizes)
    if not flag_values.json:
        print(f"{info.name}: {checked} examples checked, {len(entries)} bad entries")
    return errors.FAILURE if entries else errors.SUCCESS
