"""`keras-vit validate`: every bad entry of a data set, and what is odd about its pictures."""

import dataclasses
import json

from absl import flags

from keras_vit.cli import errors, training_flags
from keras_vit.cli.errors import UsageError
from keras_vit.untrusted import printable

SUMMARY = "list every image, record and folder of a data set that cannot be used, with the reason"
USAGE = "keras-vit validate DATASET [FLAGS]"
# All pictures are compared with those of like brightness: of more it is a work of its own.
_MAX_COMPARED = 20_000
_MAX_SENTENCE = 4_096


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "splits", None, "names of the splits to check; all by default", flag_values=flag_values
    )
    training_flags.define_data(flag_values)
    training_flags.define_max_pixels(flag_values)
    flags.DEFINE_boolean(
        "findings",
        None,
        "say what is odd about pictures that can be read: classes with few, copies and "
        "near-duplicates in two splits or classes, pictures of one colour; by default for up to "
        f"{_MAX_COMPARED:,} files, and not with --json, where each is a line of its own",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "json", False, "print one JSON line for each bad entry", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Lists the bad entries and the findings; returns 1 if there is an entry."""
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
    for sentence in _findings(flag_values, info):
        print(json.dumps({"finding": sentence}) if flag_values.json else f"finding: {sentence}")
    checked = sum(info.num_examples(split) for split in flag_values.splits or info.split_sizes)
    if not flag_values.json:
        print(f"{info.name}: {checked} examples checked, {len(entries)} bad entries")
    return errors.FAILURE if entries else errors.SUCCESS


def _findings(flag_values, info):
    """What is odd about the pictures, sentences."""
    from keras_vit.data.findings import findings
    from keras_vit.progress import image_progress

    wanted = flag_values.findings
    splits = {name: info.num_examples(name) for name in flag_values.splits or info.split_sizes}
    if wanted is None:
        wanted = not flag_values.json and sum(splits.values()) <= _MAX_COMPARED
    if not wanted:
        return []
    info = dataclasses.replace(info, split_sizes=splits)
    return [
        printable(sentence, _MAX_SENTENCE) for sentence in findings(info, progress=image_progress)
    ]
