"""Checkpoints of one format from those of another, with a report and a proof."""

import dataclasses
import gc

import keras
import numpy as np

from keras_vit.checkpoints.containers import files
from keras_vit.checkpoints.formats.registry import get_format
from keras_vit.errors import CheckpointError
from keras_vit.models.families import FAMILIES
from keras_vit.zoo import loading, opening
from keras_vit.zoo.conversion_report import Written, report
from keras_vit.zoo.destination import KERAS, Target
from keras_vit.zoo.positions import keeps_positions
from keras_vit.zoo.saving import save_pretrained

# What the written file may differ by, of the largest value, in float32.
TOLERANCE = 1e-5
# What replaced constants may change, of the largest value; more than that is another model.
MAX_APPROXIMATION = 2e-2
NUM_IMAGES = 2


def convert(
    source,
    destination,
    format=None,
    *,
    source_format=None,
    num_classes=None,
    image_size=None,
    dtype=None,
    overwrite=False,
    dry_run=False,
    approximate=False,
    on_stage=None,
):
    """Writes a checkpoint in another format, and proves that it is the same model.

    What was written is loaded again from the disk, and must give the source's logits, and the
    features before them, on random images within 1e-5 of the largest; else nothing is published.
    A file of 16 bits must be the proven one of 32 bits, rounded.

    Args:
        source: what `from_pretrained` takes.
        destination: a `.npz`, `.safetensors`, `.h5` or `.keras` file, or a folder for the formats
            that have one (`timm`, `huggingface`, `keras_hub`, `keras`).
        format: name of the format to write (`docs/checkpoints.md`), or `"keras"`; None takes the
            one that the ending of the destination tells.
        source_format: name of the source's format; None finds it.
        num_classes: None keeps the head; a number starts a new one at zero, 0 leaves it out.
        image_size: (height, width) in pixels, or one integer, to which positions are interpolated.
        dtype: `"float32"`, `"float16"` or `"bfloat16"` of the numbers that are written; None is
            float32, or the 16 bits of a source of the same format whose numbers stay.
        overwrite: whether files that are there may be replaced.
        dry_run: whether to report only: no number is read and nothing written.
        approximate: Whether constants that the format's library has other values for (the epsilons
            and the standardisation of ResNets) are replaced by its own. What that changes is
            measured on random images, reported, and refused above 0.02 of the largest value.
        on_stage: called with a few words when a stage of the work begins.

    Returns:
        `ConversionReport`.

    Raises:
        CheckpointError: if the source cannot be read, the format cannot hold the model (says what
            of it), a file would be replaced, or what was written is not the same model.
        ValueError: for bad arguments.
    """
    stage = on_stage or (lambda words: None)
    target = Target.of(destination, format)
    if dtype not in (None, "float32", *files.HALVES):
        names = ", ".join(("float32", *files.HALVES))
        raise ValueError(f"`dtype` must be one of {names}. Received: {dtype!r}")
    if target.format_name == KERAS and dtype not in (None, "float32"):
        raise ValueError(f"a .keras file has float32 weights. Received: dtype={dtype!r}")
    stage("opening")
    found = opening.open_checkpoint(source, source_format, image_size=image_size)
    if found.quantized:
        raise CheckpointError(
            source,
            "holds a quantised model, whose weights have been rounded; convert the one before",
        )
    replaced = _replaced(found, target) if approximate else {}
    exact, found = found, _with_fields(found, {k: new for k, (_, new) in replaced.items()})
    _check_family(found, target, num_classes)
    stage("reading")
    if dry_run:
        found = dataclasses.replace(found, read=_zeros(found))
    model = loading.build_model(
        found, num_classes=num_classes, image_size=image_size, dtype="float32"
    )
    same_numbers = num_classes is None and keeps_positions(
        found, getattr(model.config, "grid", None)
    )
    written = Written.of(model, target, dtype, keeps_half=same_numbers)
    target.check_free(written.files, overwrite)
    result = report(found, model, target, written, num_classes)
    result = dataclasses.replace(result, replaced=replaced)
    if dry_run:
        return result
    if replaced:
        stage("measuring what the constants change")
        of_both = (exact, num_classes, image_size, model)
        result = dataclasses.replace(result, approximation=_approximation(target, *of_both))
    models = [model]
    del exact, found, model
    with target.temporary_folder() as folder:
        differences, rounding = _write_and_prove(models, target, folder, written.dtype, stage)
        target.publish(folder / "published")
    return dataclasses.replace(result, differences=differences, rounding=rounding)


def _write_and_prove(models, target, folder, dtype, stage):
    """Writes `folder / "published"`; (differences, what rounding changes or None).

    Takes the one model out of the list: two at once would need twice the memory.
    """
    model = models.pop()
    expected, image_size = _outputs(model), model.config.image_size
    final = exact = folder / "published" / target.file_name
    stage("writing")
    if dtype in files.HALVES:
        exact = folder / "exact" / target.file_name
        _write(model, exact, target.format_name, "float32")
    _write(model, final, target.format_name, dtype)
    del model
    gc.collect()  # layers and models point at each other
    stage("loading what was written")
    differences = _proven(target, exact, expected, image_size)
    if exact == final:
        return differences, None
    _check_rounded(target, exact, final, dtype)
    return differences, _differences(expected, _outputs(_loaded(target, final, image_size)))


def _check_family(found, target, num_classes):
    """Refuses what the arrays' names alone show that the format cannot hold, before any is read."""
    if target.format_name == KERAS:
        return
    fields = dict(found.architecture.fields)
    if num_classes is not None:
        fields |= {"num_classes": num_classes}
        fields |= {"representation_size": None} if "representation_size" in fields else {}
    architecture = dataclasses.replace(found.architecture, fields=fields)
    problems = get_format(target.format_name).cannot_hold(architecture)
    if problems:
        raise CheckpointError(
            target.path, [f"{target.format_name} cannot hold {p}" for p in problems]
        )


def _with_fields(found, fields):
    architecture = found.architecture
    return dataclasses.replace(
        found,
        architecture=dataclasses.replace(architecture, fields={**architecture.fields, **fields}),
    )


def _replaced(found, target):
    """Field -> (value of the source, value of the target's library), where they differ."""
    if target.format_name == KERAS:
        return {}
    family = found.architecture.family
    theirs = get_format(target.format_name).constants.get(family, {})
    config_class = FAMILIES[family].config_class
    defaults = {f.name: f.default for f in dataclasses.fields(config_class)}
    ours = {**defaults, **found.architecture.fields}
    return {k: (ours[k], value) for k, value in theirs.items() if ours[k] != value}


def _approximation(target, exact, num_classes, image_size, model):
    """What replaced constants change: output -> difference, of the largest value."""
    original = loading.build_model(
        exact, num_classes=num_classes, image_size=image_size, dtype="float32"
    )
    differences = _differences(_outputs(original), _outputs(model))
    if not all(value <= MAX_APPROXIMATION for value in differences.values()):
        words = ", ".join(f"{name} by {value:.1e}" for name, value in differences.items())
        raise CheckpointError(
            target.path,
            f"the constants of {target.format_name} change {words} of the largest value, where "
            f"{MAX_APPROXIMATION} is allowed; not published",
        )
    return differences


def _zeros(found):
    """A stand-in for the numbers of a file, in their shapes, that takes no memory."""
    match = found.match

    def read(paths):
        if match is None:
            return {path: np.zeros(found.shapes[path], np.float32) for path in paths}
        arrays = {e.ours: np.zeros(e.shape, np.float32) for e in match.entries if e.ours in paths}
        placeholders = match.format_.layouts[match.layout]
        return match.format_.to_model(arrays, match.architecture, placeholders)

    return read


def _write(model, path, format_name, dtype):
    if format_name == KERAS:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    else:
        save_pretrained(model, path, format=format_name, dtype=dtype)


def _loaded(target, path, image_size):
    try:
        return loading.from_pretrained(path, image_size=image_size, dtype="float32")
    except CheckpointError as error:
        raise CheckpointError(
            target.path, [f"what was written cannot be read: {p}" for p in error.problems]
        ) from error


def _outputs(model):
    """The model's logits, and the features before them, on random images in [-1, 1]."""
    outputs = {"features": model.output}
    if model.config.num_classes:
        outputs = {"features": model.get_layer("head").input, "logits": model.output}
    shape = (NUM_IMAGES, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    computed = keras.Model(model.input, outputs)(images, training=False)
    return {name: keras.ops.convert_to_numpy(array) for name, array in computed.items()}


def _differences(expected, found):
    """Output -> the largest difference, of the largest value."""
    return {
        name: float(np.abs(found[name] - array).max() / (np.abs(array).max() or 1.0))
        for name, array in expected.items()
    }


def _proven(target, path, expected, image_size):
    """The differences of a written file, all within the tolerance."""
    found = _outputs(_loaded(target, path, image_size))
    if {k: a.shape for k, a in found.items()} != {k: a.shape for k, a in expected.items()}:
        raise CheckpointError(target.path, "what was written has other outputs; not published")
    differences = _differences(expected, found)
    if not all(value <= TOLERANCE for value in differences.values()):
        words = ", ".join(f"{name} differ by {value:.1e}" for name, value in differences.items())
        raise CheckpointError(
            target.path,
            f"what was written is not the same model: {words} of the largest value, where "
            f"{TOLERANCE} is allowed; not published",
        )
    return differences


def _check_rounded(target, exact, final, dtype):
    """Raises `CheckpointError` unless one file is the other, rounded."""
    full, half = files.open_container(exact), files.open_container(final)
    wrong = sorted(set(full.shapes) ^ set(half.shapes))
    for key in full.shapes.keys() & half.shapes.keys():
        expected = full.read([key])[key].astype(files.HALVES[dtype]).astype(np.float32)
        if not np.array_equal(half.read([key])[key], expected):
            wrong.append(key)
    if wrong:
        raise CheckpointError(
            target.path, [f"array {key!r} was not written as it should be" for key in wrong]
        )
