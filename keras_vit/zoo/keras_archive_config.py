"""The configuration in a `.keras` file: plain values, each of the type that its field has."""

import dataclasses
import math
import types
import typing

from keras_vit.checkpoints.containers.files import HALVES
from keras_vit.checkpoints.formats.registry import FORMATS
from keras_vit.errors import CheckpointError
from keras_vit.models import Preprocessing
from keras_vit.models.classifier import check_prepared_size
from keras_vit.models.families import FAMILIES
from keras_vit.models.task import Task
from keras_vit.models.vit_config import SINCOS

MODELS = {family.model_class.__name__: family.model_class for family in FAMILIES.values()}
# What our models' `get_config` returns; the name and dtype are chosen anew for every model.
PARTS = {
    *("config", "preprocessing", "class_names", "origin", "name", "dtype", "trainable", "task"),
    "quantized",
}
# Of sine-cosine positions, which are in no array: four times those of ViT-H/14 at 1,024 px.
MAX_COMPUTED_VALUES = 1 << 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredModel:
    """What a file says of its model, in our classes.

    Attributes:
        config: of one of the models' configuration classes.
        preprocessing: `Preprocessing` for its image size.
        class_names: a name for each class, or None.
        origin: where its weights came from before.
        task: `Task`, or None.
        num_frozen: Number of layers (and parts of layers) that the file says are frozen.
        quantized: Paths of the layers whose kernels are of 8 bits.
    """

    config: object
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    origin: dict
    task: Task | None = None
    num_frozen: int = 0
    quantized: tuple[str, ...] = ()


def read(path, class_name, stored, num_arrays):
    """Parses a `.keras` configuration strictly; unknown fields are errors.

    Args:
        path: for error messages.
        class_name: of the model.
        stored: what its `get_config` returned, as read from JSON.
        num_arrays: how many the file has; a model with more blocks than that is none.

    Returns:
        `StoredModel`.

    Raises:
        CheckpointError: if anything is unknown, missing, of another type, or out of range.
    """
    try:
        if class_name not in MODELS:
            raise ValueError(f"there is no model {class_name[:60]!r}")
        if not {"config", "preprocessing"} <= set(stored) <= PARTS:
            raise ValueError(f"it must hold {', '.join(sorted(PARTS))}")
        config = instance(MODELS[class_name].config_class, stored["config"])
        depth = getattr(config, "depth", 0) + sum(getattr(config, "stage_depths", ()))
        if depth > num_arrays:
            raise ValueError(f"{depth} blocks are more than its {num_arrays} arrays can fill")
        if getattr(config, "position_embedding", None) in SINCOS:
            num_values = math.prod(config.grid) * config.hidden_size
            if num_values > MAX_COMPUTED_VALUES:
                raise ValueError(f"{num_values} values of positions are more than any model has")
        preprocessing = instance(Preprocessing, stored["preprocessing"])
        check_prepared_size(config, preprocessing)
        return StoredModel(
            config=config,
            preprocessing=preprocessing,
            class_names=_class_names(stored.get("class_names"), config.num_classes),
            origin=_origin(stored.get("origin")),
            task=_task(stored.get("task"), config.num_classes),
            num_frozen=_num_frozen(stored.get("trainable", {})),
            quantized=_quantized(stored.get("quantized", [])),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(path, f"has an invalid model configuration: {error}") from error


def instance(cls, values):
    """A dataclass of plain JSON values, lists for its tuples."""
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict) or not set(values) <= set(hints):
        known = ", ".join(hints)
        raise ValueError(f"a {cls.__name__} has the fields {known} and no others")
    for name, value in values.items():
        if not _is(value, hints[name]):
            raise ValueError(f"`{name}` of a {cls.__name__} cannot be {str(value)[:60]}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**values)


def _is(value, hint):
    """Whether a JSON value is of the type that a field of ours has."""
    if isinstance(hint, types.UnionType):
        return any(_is(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item, *rest = typing.get_args(hint)
        sized = rest == [...] or (isinstance(value, list) and len(value) == 1 + len(rest))
        return isinstance(value, list) and sized and all(_is(v, item) for v in value)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    return type(value) is hint


def _class_names(names, num_classes):
    if names is None:
        return None
    if not _is(names, tuple[str, ...]) or len(names) != num_classes:
        raise ValueError(f"the class names are not {num_classes} texts")
    return tuple(names)


def _task(task, num_classes):
    return None if task is None else instance(Task, task).checked(num_classes)


def _num_frozen(trainable):
    if not isinstance(trainable, dict) or not all(isinstance(v, bool) for v in trainable.values()):
        raise ValueError("`trainable` is no table of layers that are trained or not")
    return sum(not value for value in trainable.values())


def _quantized(paths):
    if not _is(paths, tuple[str, ...]) or len(set(paths)) < len(paths):
        raise ValueError("`quantized` is no list of layers")
    return tuple(paths)


def _origin(origin):
    """What `save_pretrained` will go by when it writes the model again."""
    if origin is None:
        return {}
    if not isinstance(origin, dict) or not all(isinstance(v, str) for v in origin.values()):
        raise ValueError("the origin is no table of texts")
    format_ = FORMATS.get(origin.get("format"))
    if format_ is not None:
        allowed = {"layout": format_.layouts, "prefix": format_.prefixes, "dtype": HALVES}
        for name, known in allowed.items():
            if name in origin and origin[name] not in known:
                raise ValueError(f"the origin has the {name} {origin[name][:60]!r}")
    return origin
