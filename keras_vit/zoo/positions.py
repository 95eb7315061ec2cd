"""A file's positions on the grid of the model that is made from it."""

import math

from keras_vit.checkpoints.formats.registry import FORMATS
from keras_vit.checkpoints.positions import resize_positions, resize_table
from keras_vit.errors import CheckpointError
from keras_vit.models.vit_config import RELATIVE

# What the names of all layers of positions start with; the rest is the layer's place.
_LAYERS = "posembed_"
# Tables over one axis of the grid -> that axis; "embedding" is over both.
_AXES = {"y_embedding": 0, "x_embedding": 1}


def is_resized_table(path):
    """Whether a variable is a table of positions that depends on the grid."""
    return path.startswith(_LAYERS) and path.rpartition("/")[2] in ("embedding", *_AXES)


def keeps_positions(found, new_grid):
    """Whether a model with `new_grid` has the file's positions as they are."""
    if found.grid == new_grid:
        return True
    if found.architecture.fields.get("position_embedding") == "learned2d":
        return False
    patches = found.architecture.num_positions - found.architecture.num_leading_positions
    if not patches:
        return True
    return "image_size" not in found.architecture.fields and patches == math.prod(new_grid)


def check_size(found, config):
    """Raises ValueError for a model of a size that the file's positions cannot be brought to."""
    fields = found.architecture.fields
    sizes = (found.grid, getattr(config, "grid", None))
    if found.architecture.family == "axial_resnet":
        sizes = (fields["image_size"], config.image_size)
    elif fields.get("position_embedding") not in RELATIVE:
        return
    if sizes[0] != sizes[1]:
        raise ValueError(
            "there is no rule for relative positions at another size. Received: a size of "
            f"{sizes[1]} for {found.source}, whose is {sizes[0]}"
        )


def fit_positions(found, arrays, config):
    """Brings the position tables among a file's arrays to the model's grid.

    Args:
        found: `OpenedCheckpoint`.
        arrays: Variable path -> array; changed in place.
        config: Configuration of the model.

    Raises:
        CheckpointError: for positions of no grid that would have to be resized.
    """
    for path in filter(is_resized_table, list(arrays)):
        name = path.rpartition("/")[2]
        if name in _AXES:
            arrays[path] = resize_table(arrays[path], config.grid[_AXES[name]])
        else:
            arrays[path] = _on_grid(found, arrays[path], config)


def resize_rule(found, config):
    """The name of the rule by which a file's positions are brought to another grid.

    The configuration's, where it has one; else that of the library whose file it is, or was before
    it became a `.keras` file.
    """
    if config.position_resize is not None:
        return config.position_resize
    format_ = FORMATS.get(found.origin.get("format"))
    if format_ is None:
        return "aligned"
    return format_.resize_rule_of(found.architecture, found.origin.get("layout"))


def _on_grid(found, positions, config):
    """One table of learned 1-D positions."""
    new_grid = config.grid
    if keeps_positions(found, new_grid):
        return positions
    prefix = found.architecture.num_leading_positions
    patches = positions.shape[1] - prefix
    if found.grid is None:
        raise CheckpointError(
            found.source,
            f"its {patches} positions are those of no square grid, so they cannot be resized to "
            f"{new_grid[0]}x{new_grid[1]}; load it at its own `image_size` first",
        )
    return resize_positions(positions, found.grid, new_grid, prefix, resize_rule(found, config))
