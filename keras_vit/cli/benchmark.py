"""`keras-vit benchmark`: how fast a model is here, and what memory it takes."""

import csv
import io
import itertools
import pathlib

from absl import flags

from keras_vit.cli import output, streams
from keras_vit.cli.errors import CommandError, UsageError

SUMMARY = "measure images per second, latency, memory and TFLOP/s of a model on this machine"
USAGE = "keras-vit benchmark [FLAGS] MODEL"

_COLUMNS = {
    "batch_size": "{}",
    "images_per_second": "{:.1f}",
    "latency_ms_p50": "{:.1f}",
    "latency_ms_p99": "{:.1f}",
    "cpu_seconds": "{:.2f}",
    "memory_mb": "{:.0f}",
    "tflops": "{:.3g}",
    "share_of_peak": "{:.0%}",
}


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "batch_sizes",
        ["auto"],
        "images in a batch, 1,8,32 for instance; auto doubles the batch while it fits and pays",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "tasks", ["inference", "training"], "inference, training or both", flag_values=flag_values
    )
    flags.DEFINE_list(
        "dtypes",
        ["float32"],
        "dtype policies: float32, mixed_bfloat16, mixed_float16, bfloat16",
        flag_values=flag_values,
    )
    flags.DEFINE_list("backends", ["tensorflow"], "tensorflow, jax", flag_values=flag_values)
    flags.DEFINE_list(
        "image_sizes", [], "sides of the images in pixels; the model's own", flag_values=flag_values
    )
    flags.DEFINE_float(
        "seconds", 5.0, "how long batches are timed", lower_bound=0.0, flag_values=flag_values
    )
    flags.DEFINE_string(
        "output", None, "file for all numbers, .csv or .json", flag_values=flag_values
    )
    flags.DEFINE_string(
        "profile",
        None,
        "folder for traces that TensorBoard and xprof read",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overwrite", False, "replace the output if it exists", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Measures each combination, each in a process of its own, and prints a table."""
    if len(arguments) != 1:
        raise UsageError(
            "benchmark takes the name of one model, see keras-vit models. "
            f"Received: {' '.join(arguments) or 'none'}"
        )
    sizes = _integers(flag_values.image_sizes, "image_sizes") or [None]
    is_auto = flag_values.batch_sizes == ["auto"]
    batch_sizes = None if is_auto else _integers(flag_values.batch_sizes, "batch_sizes")
    path = flag_values.output
    if path is not None:
        path = output.check_new_file(path, flag_values.overwrite)
        if path.suffix not in (".csv", ".json"):
            raise UsageError(f"--output must end with .csv or .json. Received: {path}")

    from keras_vit.benchmarks import speed
    from keras_vit.models.presets import get_preset

    get_preset(arguments[0])
    for name, known in (
        ("tasks", speed.TASKS),
        ("dtypes", speed.DTYPES),
        ("backends", speed.BACKENDS),
    ):
        for value in flag_values[name].value:
            if value not in known:
                raise UsageError(f"--{name} must be of {', '.join(known)}. Received: {value}")
    rows = []
    for backend, dtype, size, task in itertools.product(
        flag_values.backends, flag_values.dtypes, sizes, flag_values.tasks
    ):
        label = f"{task}, {backend}, {dtype}" + (f", {size} px" if size else "")
        profile = flag_values.profile and str(
            pathlib.Path(flag_values.profile, f"{task}-{backend}-{dtype}-{size or 'own'}")
        )
        work = speed.Work(
            model=arguments[0],
            task=task,
            backend=backend,
            dtype=dtype,
            image_size=size,
            seconds=flag_values.seconds,
            profile=profile,
        )
        streams.say(f"measuring {label}")
        found = list(speed.search(work) if is_auto else speed.each(work, batch_sizes))
        print(label)
        measured = [row for row in found if "error" not in row]
        if measured:
            output.print_table([_cells(row) for row in measured])
        for row in found:
            if "error" in row:
                print(f"batch of {row['batch_size']}: {row['error']}")
        rows += found
    if path is not None:
        _write(path, rows)
    if all("error" in row for row in rows):
        raise CommandError(f"nothing could be measured; the last error: {rows[-1]['error']}")


def _integers(texts, flag):
    if not all(text.isdigit() and int(text) for text in texts):
        raise UsageError(f"--{flag} must be positive integers. Received: {','.join(texts)}")
    return list(map(int, texts))


def _cells(row):
    return {name: form.format(row[name]) for name, form in _COLUMNS.items()}


def _write(path, rows):
    from keras_vit import files

    if path.suffix == ".json":
        output.write_json(path, rows)
        return
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_whole(path, text.getvalue())
