"""`keras-vit inspect`: what a model has learned, as a page, a picture or JSON."""

import pathlib
import sys

from absl import flags

from keras_vit.cli import output, streams, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "show what a model has learned: filters, positions, attention, over images of yours"
USAGE = "keras-vit inspect MODEL [--images=FOLDER] [FLAGS]"

_FORMATS = ("html", "json", "png")


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_multi_string(
        "images",
        [],
        "an image file, or a folder that is searched for images; may be given several times",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "the file to write; report.html or report.png, and stdout for JSON, where it is not given",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "against", None, "another model, shown beside the first one", flag_values=flag_values
    )
    flags.DEFINE_enum(
        "format",
        None,
        list(_FORMATS),
        "a page that needs no network, JSON with the numbers, or one picture; told by the ending "
        "of --output, else html",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_images", 16, "images to look at, at most", lower_bound=1, flag_values=flag_values
    )
    training_flags.define_max_pixels(flag_values)
    flags.DEFINE_boolean(
        "overwrite", False, "replace the output if it exists", flag_values=flag_values
    )


def run(flag_values, arguments):
    """Writes the report, and says where it is."""
    if len(arguments) != 1:
        raise UsageError(
            "inspect takes one model: a file, the folder of a training run, or a name of "
            "`keras-vit models --checkpoints`; another one goes to --against. "
            f"Received: {' '.join(arguments) or 'none'}"
        )
    format_ = _format(flag_values)
    path = flag_values.output or (None if format_ == "json" else f"report.{format_}")
    if path is not None:
        path = output.check_new_file(path, flag_values.overwrite)

    from keras_vit.analysis import report

    if format_ != "json":
        # Said before the work, and not after it.
        from keras_vit.analysis import plots  # noqa: F401
    sources = [arguments[0], *([flag_values.against] if flag_values.against else [])]
    labels = [sources[0], *(f"{s} (2)" if s == sources[0] else s for s in sources[1:])]
    found = [_inspect(*names, flag_values) for names in zip(sources, labels, strict=True)]
    if path is None:
        sys.stdout.write(report.render(found, format_).decode())
        return
    report.write(path, found, format_)
    output.print_summary(f"inspected {' and '.join(sources)}", _rows(found, path))


def _format(flag_values):
    if flag_values.format is not None:
        return flag_values.format
    ending = pathlib.Path(flag_values.output or "").suffix.removeprefix(".").lower()
    return ending if ending in _FORMATS else "html"


def _inspect(source, label, flag_values):
    import keras_vit
    from keras_vit.analysis import inspection, pictures, run_facts

    streams.say(f"loading {source}")
    model = keras_vit.from_pretrained(source)
    photographs = None
    if flag_values.images:
        photographs = pictures.read_photographs(
            flag_values.images,
            model.preprocessing,
            flag_values.max_images,
            flag_values.max_pixels,
        )
        for path, reason in photographs.skipped:
            streams.say(f"skipped {path}: {reason}")
    total = 0 if photographs is None else len(photographs.names)
    return inspection.inspect(
        model,
        source=source,
        label=label,
        workdir=source if run_facts.is_run(source) else None,
        photographs=photographs,
        progress=lambda done: streams.say(f"{label}: {done} of {total} images"),
    )


def _rows(found, path):
    for one in found:
        facts = one.facts
        gflops = facts["multiply_adds"] / 1e9
        yield "model", f"{facts['family']}, {facts['parameters']:,} parameters, {gflops:.3g} GFLOPs"
    if found[0].photographs is not None:
        photographs = found[0].photographs
        more = f", {photographs.num_more} more not looked at" if photographs.num_more else ""
        yield "images", f"{len(photographs.names)}{more}"
        if photographs.skipped:
            yield "unreadable", len(photographs.skipped)
    yield "written to", path
