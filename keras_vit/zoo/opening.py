"""Checkpoints that are understood but not yet read: what is in a file, and how to read it."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping

from absl import logging

from keras_vit.checkpoints import matching
from keras_vit.checkpoints.catalog import resolve
from keras_vit.checkpoints.catalog.lookup import Checkpoint
from keras_vit.checkpoints.containers import files, keras_archive
from keras_vit.checkpoints.download.class_names import class_names as class_names_of
from keras_vit.checkpoints.format import Architecture
from keras_vit.checkpoints.formats.registry import find_format, get_format
from keras_vit.errors import CheckpointError
from keras_vit.models import BiTResNet, Preprocessing
from keras_vit.models.families import variable_shapes
from keras_vit.models.fields import pair
from keras_vit.models.task import Task
from keras_vit.zoo import keras_archive_config
from keras_vit.zoo.saving import describe

POSITIONS = "posembed_input/embedding"
# Pixels of a model that takes images of any size, where nothing tells another.
BIT_SIZE = BiTResNet.config_class.image_size


def open_checkpoint(source, format=None, sha256=None, image_size=None):
    """What `from_pretrained` would load: understood, but not yet read (`OpenedCheckpoint`)."""
    path, checkpoint = resolve.locate(source, sha256)
    found = open_file(path, format, image_size and pair(image_size, "image_size"))
    found = dataclasses.replace(found, source=str(source), path=path)
    return found if checkpoint is None else _with_catalogue(found, checkpoint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint understood but not yet read.

    Attributes:
        architecture: family, configuration fields, number of positions.
        grid: (h, w) of the positions; None where the arrays do not tell.
        variables: Variable path -> shape, as the file has them.
        read: function of a set of paths that gives path -> array in our shape.
        preprocessing: `Preprocessing`, or None if unknown.
        class_names: or None if unknown.
        task: `Task`, or None.
        quantized: Paths of the layers whose kernels are of 8 bits; only in `.keras` files.
        origin: what becomes the model's `origin`.
        match: `matching.Match` of its arrays; None for a `.keras` file.
        shapes: key -> shape of all that the file holds.
        source: what the user named.
        path: of the file.
        checkpoint: row of the catalogue, or None.
    """

    architecture: Architecture
    grid: tuple[int, int] | None
    variables: Mapping
    read: Callable
    origin: dict
    preprocessing: Preprocessing | None = None
    class_names: tuple | None = None
    task: Task | None = None
    quantized: tuple[str, ...] = ()
    match: matching.Match | None = None
    shapes: Mapping = dataclasses.field(default_factory=dict)
    source: str = ""
    path: pathlib.Path | None = None
    checkpoint: Checkpoint | None = None


def open_file(path, format_name=None, image_size=None):
    """The `OpenedCheckpoint` of a file or folder on this machine.

    Args:
        path: A file, or a folder with one.
        format_name: Name of its format; None finds it.
        image_size: (height, width) that was asked for, which may tell the grid of the positions.

    Raises:
        CheckpointError: as `from_pretrained` does.
    """
    path = files.file_of(path)
    if path.suffix == ".keras":
        return _open_keras(path)
    return _open_arrays(path, format_name, image_size)


def _with_catalogue(found, checkpoint):
    """What the catalogue knows and the file does not: preprocessing, class names, where from."""
    preprocessing = checkpoint.preprocessing
    is_imagenet = checkpoint.training.startswith("ImageNet")
    return dataclasses.replace(
        found,
        checkpoint=checkpoint,
        preprocessing=Preprocessing(**preprocessing) if preprocessing else found.preprocessing,
        class_names=class_names_of(checkpoint.num_classes) if is_imagenet else found.class_names,
        origin={**found.origin, "name": checkpoint.name},
    )


def _open_arrays(path, format_name, image_size):
    container = files.open_container(path)
    shapes = container.shapes
    format_ = get_format(format_name) if format_name else find_format(path, shapes)
    facts = container.facts() if format_.side_files else {}
    match = matching.match_file(path, format_, shapes, facts, image_size)
    if assumed := ", ".join(match.architecture.assumed):
        logging.warning("%s: assumed %s, as no config.json beside it tells that", path, assumed)
    preprocessing, class_names = _about(path, match, facts)
    kept = {
        "prefix": match.prefix if format_.keeps_prefix else None,
        "dtype": container.half,
    }
    architecture = match.architecture
    patches = architecture.num_positions - architecture.num_leading_positions
    side = math.isqrt(max(patches, 0))
    return OpenedCheckpoint(
        architecture=architecture,
        grid=architecture.grid or ((side, side) if side and side * side == patches else None),
        variables=variables_of(match),
        read=lambda paths: match.arrays(paths, container.read),
        origin={
            "file": path.name,
            "format": format_.name,
            "layout": match.layout,
            **{name: value for name, value in kept.items() if value is not None},
        },
        preprocessing=preprocessing,
        class_names=class_names,
        match=match,
        shapes=shapes,
    )


def variables_of(match):
    """Variable path -> shape, of the arrays of a `matching.Match`."""
    shapes = {entry.ours: entry.shape for entry in match.entries}
    if POSITIONS in shapes:  # the table's, before a row for the class token comes or goes
        hidden_size = shapes[POSITIONS][-1]
        shapes[POSITIONS] = (1, match.architecture.num_positions, hidden_size)
    return shapes


def _about(path, match, facts):
    """(`Preprocessing` or None, class names or None) of the JSON files beside the arrays."""
    try:
        about = match.format_.about(facts, match.architecture)
        if about.preprocessing is None:
            return None, about.class_names
        size = {"image_size": match.architecture.fields.get("image_size", BIT_SIZE)}
        return Preprocessing(**{**size, **about.preprocessing}), about.class_names
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            path, f"the JSON files beside it describe no preprocessing or classes: {error}"
        ) from error


def _open_keras(path):
    class_name, stored, weights = keras_archive.open_model(path)
    known = keras_archive_config.read(path, class_name, stored, num_arrays=len(weights.headers))
    if known.num_frozen:
        logging.info(
            "%s: the model was saved with frozen layers; loaded with all layers trainable. "
            "`keras.models.load_model` keeps them frozen.",
            path,
        )
    shapes = _with_scales(path, variable_shapes(known.config), known.quantized)
    arrays = weights.match(shapes)
    int8 = {path for path in shapes if f"{path}_scale" in shapes}
    return OpenedCheckpoint(
        architecture=describe(known.config),
        grid=getattr(known.config, "grid", None),
        variables=shapes,
        read=lambda paths: weights.read({path: arrays[path] for path in paths}, int8),
        preprocessing=known.preprocessing,
        class_names=known.class_names,
        task=known.task,
        quantized=known.quantized,
        origin={**known.origin, "file": path.name},
        shapes=shapes,
    )


def _with_scales(path, shapes, quantized):
    """The variables of a model some of whose layers have kernels of 8 bits, as files hold them.

    A kernel's scales come after it; of a Dense layer they are the last, of an attention kernels
    come behind all else.
    """
    owners = {layer: {} for layer in (variable.rpartition("/")[0] for variable in shapes)}
    for variable, shape in shapes.items():
        owners[variable.rpartition("/")[0]][variable] = shape
    for layer in quantized:
        own = owners.get(layer, {})
        kernels = {name: shape for name, shape in own.items() if name.endswith("kernel")}
        if not kernels:
            raise CheckpointError(
                path, f"has an invalid model configuration: {layer[:60]!r} has no kernel of 8 bits"
            )
        if f"{layer}/kernel" in kernels:
            owners[layer] = {**own, f"{layer}/kernel_scale": own[f"{layer}/kernel"][-1:]}
            continue
        owners[layer] = {name: shape for name, shape in own.items() if name not in kernels}
        for name, shape in kernels.items():
            is_out = name.endswith("/out_kernel")
            owners[layer] |= {name: shape}
            owners[layer][f"{name}_scale"] = (shape[-1] if is_out else math.prod(shape[1:]),)
    return {variable: shape for own in owners.values() for variable, shape in own.items()}
