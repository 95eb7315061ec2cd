"""Where models meet checkpoints: models by name, models from files, files from models."""

import concurrent.futures
import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping

from keras_vit import memory, stored_models
from keras_vit.checkpoints import containers, keras_files, rules, sources
from keras_vit.checkpoints.catalog import Checkpoint
from keras_vit.checkpoints.class_names import class_names as class_names_of
from keras_vit.checkpoints.errors import CheckpointError
from keras_vit.checkpoints.formats import find_format, get_format
from keras_vit.checkpoints.positions import resize_positions
from keras_vit.checkpoints.tables import Architecture
from keras_vit.layers.initializers import blank_initialization
from keras_vit.models import BiTResNet, Preprocessing
from keras_vit.models.classifier import pair, replace_fields
from keras_vit.models.presets import get_preset, list_models
from keras_vit.saving import FAMILIES, describe, save_pretrained

__all__ = ["create_model", "from_pretrained", "list_models", "save_pretrained"]

# Fields that no array tells and that need none: what `from_pretrained` lets a caller choose.
FREE_FIELDS = (
    "dropout",
    "attention_dropout",
    "stochastic_depth",
    "gelu",
    "layer_norm_epsilon",
    "group_norm_epsilon",
    "conv_epsilon",
    "standardization",
    "root_pool_padding",
    "pooling",
    "head_bias",
)

POSITIONS = "posembed_input/embedding"
# What a new head takes the place of.
HEAD_LAYERS = ("head", "pre_logits")
# Pixels of a model that takes images of any size, where nothing tells another.
BIT_SIZE = BiTResNet.config_class.image_size


def create_model(
    model, *, num_classes=1000, image_size=224, class_names=None, name=None, dtype=None, **overrides
):
    """A model with random weights, drawn as the official code draws them.

    Args:
        model: a name of `list_models()`, such as `"ViT-B/16"`.
        num_classes: width of the head; 0 for none.
        image_size: (height, width) in pixels, or one integer.
        class_names: one name for each class, or None.
        name: of the Keras model.
        dtype: dtype or policy of the layers, such as `"mixed_bfloat16"`.
        **overrides: any other field of the model's configuration.

    Returns:
        A functional `keras.Model`: (B, height, width, 3) in [-1, 1] -> (B, num_classes) logits.

    Raises:
        ValueError: for an unknown name or field (lists the close ones), or a bad value.
    """
    model_class, config = get_preset(model)
    changes = {"num_classes": num_classes, "image_size": pair(image_size, "image_size")}
    config = replace_fields(config, {**changes, **overrides})
    return model_class(config, class_names=class_names, name=name, dtype=dtype)


def from_pretrained(
    source,
    *,
    num_classes=None,
    image_size=None,
    format=None,
    sha256=None,
    class_names=None,
    name=None,
    dtype=None,
    **overrides,
):
    """The model in a file; its architecture is read off the arrays alone.

    Args:
        source: a name of `list_checkpoints()` (downloaded once, then cached), an `https://` or
            `gs://` address, or the path of a `.npz` or `.safetensors` file of a known format
            (`docs/checkpoints.md`), of a `.keras` file of this package, or of a folder with one.
        num_classes: None keeps the file's head; a number drops head and representation layer and
            starts a new head at zero, as the paper's fine-tuning does; 0 leaves the head out.
        image_size: (height, width) in pixels, or one integer; None keeps that of the file.  Where
            the number of positions changes, they are interpolated (section 3.2 of the paper).  As
            in the official code, positions whose number stays the same are taken as they are.
        format: name of the file's format; None finds it.
        sha256: 64 hexadecimal digits that the file's digest must have; None takes the catalogue's,
            where it has one.  Only `.npz` and `.keras` files notice damaged values by themselves.
        class_names: one name for each class; None keeps the file's, if it has them and its head.
        name: of the Keras model.
        dtype: dtype or policy of the layers.
        **overrides: fields of the configuration that no array tells: `FREE_FIELDS`.

    Returns:
        A functional `keras.Model` whose `origin` says where its weights come from.

    Raises:
        CheckpointError: if the file cannot be read or is not what it should be; lists all that is
            wrong with it.  Also for the published ImageNet-21k files whose heads are all zeros, if
            their head would be kept.
        DownloadError: if a file that is not here cannot be had.
        ValueError: for bad arguments.
    """
    for field in overrides:
        if field not in FREE_FIELDS:
            raise ValueError(
                f"only {', '.join(FREE_FIELDS)} can be chosen for a file. Received: {field}"
            )
    found = open_checkpoint(source, format, sha256)
    return build_model(
        found,
        num_classes=num_classes,
        image_size=image_size,
        class_names=class_names,
        name=name,
        dtype=dtype,
        **overrides,
    )


def open_checkpoint(source, format=None, sha256=None):
    """What `from_pretrained` would load: understood, but not yet read (`OpenedCheckpoint`)."""
    path, checkpoint = sources.locate(source, sha256)
    found = dataclasses.replace(open_file(path, format), source=str(source), path=path)
    return found if checkpoint is None else _with_catalogue(found, checkpoint)


def build_model(
    found,
    *,
    num_classes=None,
    image_size=None,
    class_names=None,
    name=None,
    dtype=None,
    **overrides,
):
    """The model of an opened checkpoint; arguments and errors are those of `from_pretrained`."""
    source, checkpoint = found.source, found.checkpoint
    if checkpoint is not None and checkpoint.zero_head and num_classes is None:
        raise CheckpointError(
            source,
            f"{checkpoint.caveats[0]}; give `num_classes=` for a new head, 0 for features alone, "
            f"or load {found.path} to keep the zeros",
        )
    dropped = set() if num_classes is None else set(HEAD_LAYERS)
    fields = dict(found.architecture.fields)
    if num_classes is not None:
        fields["num_classes"] = num_classes
        if "representation_size" in fields:
            fields["representation_size"] = None
    fields["image_size"] = _image_size(source, found, image_size)
    model_class = FAMILIES[found.architecture.family]
    config = replace_fields(_config(source, model_class, fields), overrides)

    preprocessing = found.preprocessing or Preprocessing(image_size=config.image_size)
    if class_names is None and num_classes is None:
        class_names = found.class_names
    # Reading and building take about as long and do not hinder each other.
    with concurrent.futures.ThreadPoolExecutor(1) as reader, blank_initialization(memory.blank):
        paths = {path for path in found.paths if path.split("/")[0] not in dropped}
        reading = reader.submit(found.read, paths)
        model = model_class(
            config,
            preprocessing=preprocessing.with_image_size(config.image_size),
            class_names=class_names,
            origin=found.origin,
            name=name,
            dtype=dtype,
        )
        arrays = reading.result()
    if POSITIONS in arrays:
        arrays[POSITIONS] = _fit_positions(source, found, arrays[POSITIONS], config.grid)
    _assign(source, model, arrays, new_layers=dropped)
    return model


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint understood but not yet read.

    Attributes:
        architecture: family, configuration fields, number of positions.
        grid: (h, w) of the positions; None where the arrays do not tell.
        paths: our variable paths of its arrays.
        read: function of a set of paths that gives path -> array in our shape.
        preprocessing: `Preprocessing`, or None if unknown.
        class_names: or None if unknown.
        origin: what becomes the model's `origin`.
        match: `rules.Match` of its arrays; None for a `.keras` file.
        shapes: key -> shape of all that the file holds.
        source: what the user named.
        path: of the file.
        checkpoint: row of the catalogue, or None.
    """

    architecture: Architecture
    grid: tuple[int, int] | None
    paths: frozenset
    read: Callable
    origin: dict
    preprocessing: Preprocessing | None = None
    class_names: tuple | None = None
    match: rules.Match | None = None
    shapes: Mapping = dataclasses.field(default_factory=dict)
    source: str = ""
    path: pathlib.Path | None = None
    checkpoint: Checkpoint | None = None


def open_file(path, format_name=None):
    """The `OpenedCheckpoint` of a file or folder on this machine.

    Raises:
        CheckpointError: as `from_pretrained` does.
    """
    path = containers.file_of(path)
    return _open_keras(path) if path.suffix == ".keras" else _open_arrays(path, format_name)


def _with_catalogue(found, checkpoint):
    """What the catalogue knows and the arrays do not: preprocessing, class names, where from."""
    preprocessing = checkpoint.preprocessing
    is_imagenet = checkpoint.training.startswith("ImageNet")
    return dataclasses.replace(
        found,
        checkpoint=checkpoint,
        preprocessing=Preprocessing(**preprocessing) if preprocessing else None,
        class_names=class_names_of(checkpoint.num_classes) if is_imagenet else None,
        origin={**found.origin, "name": checkpoint.name},
    )


def _open_arrays(path, format_name):
    container = containers.open_container(path)
    shapes = container.shapes
    format_ = get_format(format_name) if format_name else find_format(path, shapes)
    facts = container.facts() if format_.side_files else {}
    match = rules.match_file(path, format_, shapes, facts)
    preprocessing, class_names = _about(path, match, facts)
    kept = {
        "prefix": match.prefix if format_.keeps_prefix else None,
        "dtype": container.half,
    }
    architecture = match.architecture
    patches = architecture.num_positions - bool(architecture.fields.get("class_token"))
    side = math.isqrt(max(patches, 0))
    return OpenedCheckpoint(
        architecture=architecture,
        grid=architecture.grid or ((side, side) if side and side * side == patches else None),
        paths=match.paths,
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


def _about(path, match, facts):
    """(`Preprocessing` or None, class names or None) of the JSON files beside the arrays."""
    try:
        about = match.format_.about(facts, match.architecture)
        if about.preprocessing is None:
            return None, about.class_names
        size = {"image_size": match.architecture.fields.get("image_size", BIT_SIZE)}
        return Preprocessing(**{**size, **about.preprocessing}), about.class_names
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            path, f"the JSON files beside it describe no preprocessing or classes: {error}"
        ) from error


def _open_keras(path):
    class_name, stored, weights = keras_files.open_model(path)
    known = stored_models.read(path, class_name, stored, num_arrays=len(weights.headers))
    architecture = describe(known.config)
    shapes = keras_files.variable_shapes(architecture)
    arrays = weights.match(shapes)
    return OpenedCheckpoint(
        architecture=architecture,
        grid=getattr(known.config, "grid", None),
        paths=frozenset(arrays),
        read=lambda paths: weights.read({path: arrays[path] for path in paths}),
        preprocessing=known.preprocessing,
        class_names=known.class_names,
        origin={**known.origin, "file": path.name},
        shapes=shapes,
    )


def _config(source, model_class, fields):
    try:
        return model_class.config_class(**fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(source, f"describes a model that cannot be: {error}") from error


def _image_size(source, found, image_size):
    """(height, width) that the model will have: the caller's, or the file's."""
    if image_size is not None:
        return pair(image_size, "image_size")
    fields = found.architecture.fields
    if "image_size" in fields:
        return fields["image_size"]
    if found.architecture.family == "bit":
        if found.preprocessing is not None:
            return found.preprocessing.image_size
        return BIT_SIZE
    if fields.get("position_embedding") == "sincos2d":
        if found.preprocessing is not None:
            return found.preprocessing.image_size
        raise CheckpointError(
            source,
            "it has no array of positions; if it is of a model with sine-cosine positions, which "
            "have none, give `image_size=(height, width)`, which no other array tells",
        )
    if found.grid is None:
        raise CheckpointError(
            source,
            f"its {found.architecture.num_positions} positions are those of no square image; "
            "give `image_size=(height, width)`, unless its array 'cls' is missing",
        )
    stride = 1
    if found.architecture.family == "hybrid":
        stride = 4 * 2 ** max(len(fields["stage_depths"]) - 1, 0)
    return tuple(
        side * size * stride for side, size in zip(found.grid, fields["patch_size"], strict=True)
    )


def keeps_positions(found, new_grid):
    """Whether a model with `new_grid` has the file's positions as they are."""
    patches = found.architecture.num_positions - bool(found.architecture.fields.get("class_token"))
    known_grid = "image_size" in found.architecture.fields
    if found.grid == new_grid or not patches:
        return True
    return not known_grid and patches == math.prod(new_grid)


def _fit_positions(source, found, positions, new_grid):
    """The file's positions on the model's grid."""
    if keeps_positions(found, new_grid):
        return positions
    prefix = int(found.architecture.fields["class_token"])
    patches = positions.shape[1] - prefix
    if found.grid is None:
        raise CheckpointError(
            source,
            f"its {patches} positions are those of no square grid, so they cannot be resized to "
            f"{new_grid[0]}x{new_grid[1]}; load it at its own `image_size` first",
        )
    return resize_positions(positions, found.grid, new_grid, prefix)


def _assign(source, model, arrays, new_layers):
    """Gives every variable its array; nothing is assigned before all of them fit."""
    variables = {v.path: v for v in model.weights}
    problems = [
        f"- {path} {tuple(v.shape)} is missing"
        for path, v in variables.items()
        if path not in arrays and path.split("/")[0] not in new_layers
    ]
    problems += [
        f"+ {path} {array.shape} has no place in the model"
        for path, array in arrays.items()
        if path not in variables
    ]
    problems += [
        f"{path} has the shape {array.shape}, expected {tuple(variables[path].shape)}"
        for path, array in arrays.items()
        if path in variables and tuple(variables[path].shape) != array.shape
    ]
    if problems:
        raise CheckpointError(source, problems)
    # In the model's order: processes of JAX that share its variables must keep to the same one.
    for path in [path for path in variables if path in arrays]:
        variables[path].assign(memory.tensor(arrays.pop(path)))
