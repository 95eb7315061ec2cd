"""What other libraries publish of plain Vision Transformers on the hub, as timm's registry has it.

The table, `timm_tags.json`, is made by `tools/timm_models.py`.  Accuracies are in no table of
timm's package, so none are told here.
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published file.

    Attributes:
        name: timm's: `vit_tiny_patch16_224.augreg_in21k`; without a tag, what timm takes for it.
        repository: On the hub, `owner/name`.
        architecture: timm's name of the model.
        image_size: (height, width) in pixels.
        num_classes: Of its head; 0 for none.
        interpolation: Of the resizing before the crop.
        crop_pct: Share of the resized image that the crop is.
        licence: Identifier of its licence, or None where none is told.
    """

    name: str
    repository: str
    architecture: str
    image_size: tuple[int, int]
    num_classes: int
    interpolation: str
    crop_pct: float
    licence: str | None


@functools.cache
def _table():
    text = importlib.resources.files(__package__).joinpath("timm_tags.json").read_text()
    return {
        name: Published(
            name=name,
            repository=row["hub"],
            architecture=name.partition(".")[0],
            image_size=tuple(row["image_size"]),
            num_classes=row["num_classes"],
            interpolation=row["interpolation"],
            crop_pct=row["crop_pct"],
            licence=row["license"],
        )
        for name, row in json.loads(text)["tags"].items()
    }


def list_published(pattern="*", licence=None):
    """The names that match a shell pattern, with their tag, sorted.

    Args:
        pattern: Such as `"*dinov2*"`.
        licence: Such as `"apache-2.0"`; None for any.
    """
    return [
        name
        for name, row in _table().items()
        if "." in name and fnmatch.fnmatchcase(name, pattern) and licence in (None, row.licence)
    ]


def get_published(name):
    """The `Published` of a name, with or without its tag, or None."""
    return _table().get(name.removeprefix("timm/"))
