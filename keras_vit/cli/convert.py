"""`keras-vit convert`: a checkpoint in another format, with a report."""

import dataclasses
import json
import re
import sys

from absl import flags

from keras_vit.cli import output
from keras_vit.cli.errors import UsageError

SUMMARY = "write a checkpoint in another format, and check that it is the same model"
USAGE = "keras-vit convert --format=NAME [FLAGS] SOURCE DESTINATION"


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "format",
        None,
        "the format to write: vit_jax, bit, big_vision, bit_paper, timm, huggingface, keras_hub or "
        "keras; told by the destination where that ends with .keras or .h5",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "source_format",
        None,
        "the format of the source, where it cannot be told by its arrays",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_classes",
        None,
        "start a new head at zero for that many classes, or leave it out (0)",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "image_size",
        None,
        "interpolate the positions for images of that many pixels: 384, or HEIGHTxWIDTH",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "float16", "bfloat16"],
        "type of the numbers in the file; float32, or that of a source of the same format",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("overwrite", False, "replace files that exist", flag_values=flag_values)
    flags.DEFINE_boolean(
        "dry_run", False, "report what would be done, and do nothing", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "approximate",
        False,
        "replace constants that the format's library has other values for, and measure the change",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "arrays", False, "list every array by itself in the report", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "json", False, "print the report as one JSON object", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Converts, and prints what happened to the arrays and how close the results are."""
    if len(arguments) != 2:
        raise UsageError(
            f"convert needs a source and a destination. Received: {' '.join(arguments) or 'none'}"
        )
    source, destination = arguments
    output.check_output_path(destination, "the destination")
    image_size = _image_size(flag_values.image_size)

    import keras_vit

    with _Stages() as on_stage:
        report = keras_vit.convert(
            source,
            destination,
            flag_values.format,
            source_format=flag_values.source_format,
            num_classes=flag_values.num_classes,
            image_size=image_size,
            dtype=flag_values.dtype,
            overwrite=flag_values.overwrite,
            dry_run=flag_values.dry_run,
            approximate=flag_values.approximate,
            on_stage=on_stage,
        )
    if flag_values.json:
        print(json.dumps({**dataclasses.asdict(report), "counts": report.counts}))
        return
    for line in _array_lines(report, flag_values.arrays):
        print(line)
    height, width = report.image_size
    output.print_summary(
        _title(report),
        [
            ("model", f"{report.family}, {report.num_params:,} parameters, {height}x{width} px"),
            ("head", f"{report.num_classes} classes" if report.num_classes else "none"),
            ("arrays", _counts(report)),
            *(("not used", key) for key in report.unused),
            *(("lost", sentence) for sentence in report.lost),
            ("written", f"{', '.join(report.files)} ({report.dtype})"),
            *_proof(report),
        ],
    )


def _image_size(text):
    if text is None:
        return None
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise UsageError(f"--image_size must be like 384 or 384x512. Received: {text}")
    sides = tuple(map(int, text.split("x")))
    return sides * 2 if len(sides) == 1 else sides


class _Stages:
    """Shows the stage of the work on a terminal, and nothing elsewhere."""

    def __enter__(self):
        self.shown = sys.stderr.isatty()
        return self

    def __call__(self, words):
        if self.shown:
            print(f"\r\x1b[K{words} ...", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _title(report):
    done = "would convert" if report.differences is None else "converted"
    source = f"{report.source} ({report.source_format})"
    return f"{done} {source} to {report.destination} ({report.target_format})"


def _counts(report):
    counts = {name: count for name, count in report.counts.items() if count}
    total = len(report.arrays)
    return f"{total}: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def _proof(report):
    for name, (old, new) in report.replaced.items():
        yield "replaced", f"{name} {old} by {new}"
    if report.approximation is not None:
        words = ", ".join(f"{name} {value:.1e}" for name, value in report.approximation.items())
        yield "which changes", f"of the largest value: {words}"
    if report.differences is None:
        return
    words = ", ".join(f"{name} {value:.1e}" for name, value in report.differences.items())
    yield "loaded again", f"largest difference, of the largest value: {words}"
    if report.rounding is not None:
        words = ", ".join(f"{name} {value:.1e}" for name, value in report.rounding.items())
        yield "rounding", f"to {report.dtype} changes: {words}"


def _array_lines(report, each):
    """One line for each array, or for all that differ in the numbers of blocks alone."""
    groups = {}
    for array in report.arrays:
        name = array.variable if each else re.sub(r"\d+", "*", array.variable.split("/")[0])
        rest = array.variable.partition("/")[2]
        shapes = array.source_shape, array.target_shape
        groups.setdefault((name, rest, array.changes, len(groups) if each else shapes), []).append(
            array
        )
    for arrays in groups.values():
        source, target = (
            _common([getattr(a, side) or "-" for a in arrays]) for side in ("source", "target")
        )
        shapes = [_shape(arrays[0].source_shape), _shape(arrays[0].target_shape)]
        times = f"{len(arrays)} x " if len(arrays) > 1 else ""
        changes = ", ".join(arrays[0].changes) or "unchanged"
        yield f"{times}{source} {shapes[0]} -> {target} {shapes[1]}: {changes}"


def _shape(shape):
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def _common(keys):
    """The keys as one: `*` where their numbers differ."""
    columns = list(zip(*(re.split(r"(\d+)", key) for key in keys), strict=False))
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)
