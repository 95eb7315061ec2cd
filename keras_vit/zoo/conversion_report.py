"""What a conversion does to every variable, from the tables of both sides alone."""

import dataclasses
import math

from keras_vit.checkpoints import matching
from keras_vit.checkpoints.containers.files import TASK_FILE
from keras_vit.checkpoints.format import About
from keras_vit.models import Preprocessing
from keras_vit.zoo import loading
from keras_vit.zoo.destination import KERAS
from keras_vit.zoo.positions import is_resized_table, keeps_positions
from keras_vit.zoo.saving import WritingPlan

# What happens to a variable, in the order in which it is told.
CHANGES = {
    "dropped": "left out: another head replaces it, or nothing uses it",
    "new": "not in the source: starts at zero",
    "renamed": "under another key",
    "split": "was a part of a larger array",
    "joined": "becomes a part of a larger array",
    "transposed": "axes in another order",
    "reshaped": "the same numbers in another shape",
    "folded": "the class token's row of the positions goes elsewhere",
    "resized": "interpolated to another grid",
    "rounded": "to 16 bits",
    "widened": "from 16 bits",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayReport:
    """One variable on its way.

    Attributes:
        variable: its path in our model.
        source: key in the file that was read; None for a new variable.
        target: key in the file that is written; None for a variable that is left out.
        source_shape: of that array of theirs, or None.
        target_shape: likewise.
        changes: of `CHANGES`; empty where key, shape and numbers stay.
    """

    variable: str
    source: str | None
    target: str | None
    source_shape: tuple[int, ...] | None
    target_shape: tuple[int, ...] | None
    changes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did, or would do.

    Attributes:
        source: what was given.
        source_file: the file that was read.
        source_format: name of its format, `"keras"` for a `.keras` file.
        destination: the file or folder.
        target_format: name of the format that is written.
        files: names of the files that are written there.
        family: `"vit"`, `"hybrid"` or `"bit"`.
        image_size: (height, width) in pixels.
        num_classes: of the head that is written; 0 for none.
        num_params: of the model.
        dtype: of the numbers that are written.
        arrays: `ArrayReport` of every variable.
        unused: keys of the source that are no variables of the model, such as an optimizer's.
        lost: what the model knows and the format has no place for, as sentences.
        differences: output (`"features"`, `"logits"`) -> the largest difference between the source
            and the file that was loaded again, of the largest value; None for a dry run.
        rounding: likewise, what rounding to 16 bits changes; None where nothing is rounded.
        replaced: Constant of the model -> (its value, the one that the target's library has).
        approximation: Likewise, what those change; None where none was replaced.
    """

    source: str
    source_file: str
    source_format: str
    destination: str
    target_format: str
    files: tuple[str, ...]
    family: str
    image_size: tuple[int, int]
    num_classes: int
    num_params: int
    dtype: str
    arrays: tuple[ArrayReport, ...]
    unused: tuple[str, ...]
    lost: tuple[str, ...]
    differences: dict | None = None
    rounding: dict | None = None
    replaced: dict = dataclasses.field(default_factory=dict)
    approximation: dict | None = None

    @property
    def counts(self):
        """Change -> how many variables it happens to; `"unchanged"` -> how many stay."""
        counts = {name: sum(name in a.changes for a in self.arrays) for name in CHANGES}
        return {**counts, "unchanged": sum(not a.changes for a in self.arrays)}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a variable is in a file, and how it lies there.

    Attributes:
        key: of the array.
        shape: of the array.
        order: of our axes in it; () where it is ours.
        is_part: whether others of our variables are in it too.
        size: how many numbers of it are the variable's.
    """

    key: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    is_part: bool
    size: int

    @classmethod
    def of_entry(cls, key, entry):
        is_part = any(isinstance(place, int) for place in entry.places)
        order = () if entry.order == tuple(range(len(entry.order))) else entry.order
        return cls(key, entry.file_shape, order, is_part, math.prod(entry.shape))

    @classmethod
    def of_variable(cls, path, shape):
        """In a `.keras` file, which has our variables as they are."""
        return cls(path, shape, (), False, math.prod(shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What will be in the files, known before a number is read.

    Attributes:
        places: our variable path -> `Place`.
        files: names.
        dtype: of the numbers.
        lost: what the format has no place for, as sentences.
    """

    places: dict
    files: tuple[str, ...]
    dtype: str
    lost: tuple[str, ...] = ()

    @classmethod
    def of(cls, model, target, dtype, keeps_half):
        """What a model becomes; CheckpointError if the format cannot hold it."""
        if target.format_name == KERAS:
            places = {v.path: Place.of_variable(v.path, tuple(v.shape)) for v in model.weights}
            return cls(places=places, files=(target.file_name,), dtype="float32")
        plan = WritingPlan.of(model, target.folder / target.file_name, target.format_name)
        prefix, entries = matching.written_entries(
            target.path, plan.format_, plan.architecture, plan.layout, plan.prefix
        )
        places = {entry.ours: Place.of_entry(prefix + entry.theirs, entry) for entry in entries}
        side_files = plan.side_files()
        has_task = any(place.key.startswith(f"{TASK_FILE}/") for place in places.values())
        half = plan.half if keeps_half else None
        return cls(
            places=places,
            files=(*side_files, *([TASK_FILE] if has_task else []), target.file_name),
            dtype=dtype or half or "float32",
            lost=tuple(_lost(model, plan, side_files)),
        )


def _lost(model, plan, side_files):
    """What comes back of class names and preprocessing, where it is not what there was."""
    facts = {**side_files.get("config.json", {}), **side_files}
    about = plan.format_.about(facts, plan.architecture) if side_files else About()
    if model.class_names is not None and about.class_names != model.class_names:
        yield f"the class names: {plan.format_.name} has no place for them"
    size = {"image_size": model.config.image_size}
    theirs = Preprocessing(**{**size, **(about.preprocessing or {})})
    theirs = theirs.with_channels(model.config.in_channels)
    for field in dataclasses.fields(Preprocessing):
        ours, other = (_comparable(p, field.name) for p in (model.preprocessing, theirs))
        if ours != other:
            yield f"the preprocessing's {field.name}: {ours} there is read as {other}"


def _comparable(preprocessing, name):
    value = getattr(preprocessing, name)
    if name == "resize_to":
        return value or preprocessing.image_size
    if name in ("value_range", "mean", "std") and value is not None:
        return tuple(round(number, 9) for number in value)
    return value


def report(found, model, target, written, num_classes):
    """The `ConversionReport` of a conversion before it is made."""
    match = found.match
    if match is None:
        sources = {path: Place.of_variable(path, shape) for path, shape in found.shapes.items()}
    else:
        sources = {
            entry.ours: Place.of_entry(match.spelling[match.prefix + entry.theirs], entry)
            for entry in match.entries
        }
    used = {place.key for place in sources.values()}
    arrays = []
    if num_classes is not None:
        heads = [path for path in sources if path.split("/")[0] in loading.HEAD_LAYERS]
        arrays = [_array(path, sources.pop(path), None, ("dropped",)) for path in heads]
    resized = not keeps_positions(found, getattr(model.config, "grid", None))
    came_in = found.origin.get("dtype", "float32")
    for path in dict.fromkeys((*sources, *written.places)):
        old, new = sources.get(path), written.places.get(path)
        changes = _changes(old, new, resized and is_resized_table(path))
        if old is not None and written.dtype != came_in:
            changes += ("widened",) if written.dtype == "float32" else ("rounded",)
        arrays.append(_array(path, old, new, changes))
    return ConversionReport(
        source=found.source,
        source_file=str(found.path),
        source_format=match.format_.name if match else KERAS,
        destination=str(target.path),
        target_format=target.format_name,
        files=written.files,
        family=found.architecture.family,
        image_size=model.config.image_size,
        num_classes=model.config.num_classes,
        num_params=model.count_params(),
        dtype=written.dtype,
        arrays=tuple(arrays),
        unused=tuple(sorted(set(found.shapes) - used)),
        lost=written.lost,
    )


def _array(path, old, new, changes):
    return ArrayReport(
        variable=path,
        source=old and old.key,
        target=new and new.key,
        source_shape=old and old.shape,
        target_shape=new and new.shape,
        changes=changes,
    )


def _changes(old, new, resized):
    if old is None:
        return ("new",)
    if new is None:
        return ("dropped",)
    moved = (old.key, old.shape) != (new.key, new.shape)
    happens = {
        "renamed": old.key != new.key,
        "split": old.is_part and moved,
        "joined": new.is_part and moved,
        "transposed": old.order != new.order,
        "resized": resized,
        "folded": old.size != new.size and not resized,
    }
    whole = not (old.is_part or new.is_part) and old.size == new.size
    happens["reshaped"] = whole and old.shape != new.shape and not happens["transposed"]
    return tuple(name for name in CHANGES if happens.get(name))
