"""Augmentations: tuples of operations, and the named ones of the sources as a table."""

import dataclasses
import difflib
from collections.abc import Mapping

from keras_vit.data.images.operations import (
    OPERATIONS,
    CutMix,
    Flip,
    InceptionCrop,
    MixUp,
    RandAugment,
    ResizeCrop,
    Rotation,
    Shift,
    Truncate,
    name_of,
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to an image beyond evaluation's preprocessing.

    Args:
        operations: In this order, see `keras_vit.data.images.operations`: at most one crop, which
            comes first; where there is none, the image is resized as in evaluation.

    Raises:
        ValueError: for a crop that does not come first, or two operations that mix in one way.
        TypeError: for what is no operation.
    """

    operations: tuple = ()

    def __post_init__(self):
        object.__setattr__(self, "operations", tuple(self.operations))
        for k, operation in enumerate(self.operations):
            is_crop, mixes = (getattr(operation, a, False) for a in ("is_crop", "mixes"))
            if is_crop and k:
                raise ValueError(
                    "A crop must be the first operation, and the only crop. Received: "
                    f"{operation} in place {k + 1}"
                )
            if not (is_crop or mixes or callable(operation)) or isinstance(operation, type):
                raise TypeError(
                    "An operation must be a callable of (image, seed). Received: "
                    f"{operation!r}; write `Flip()`, for instance"
                )
        kinds = [type(operation) for operation in self.mixing]
        if len(set(kinds)) < len(kinds) or not set(kinds) <= {MixUp, CutMix}:
            raise ValueError(
                f"Batches may be mixed by one MixUp and one CutMix. Received: {self.mixing}"
            )

    @property
    def crop(self):
        """The crop, or None."""
        first = self.operations[0] if self.operations else None
        return first if getattr(first, "is_crop", False) else None

    @property
    def cuts_source(self):
        """Whether a part of the source image is enough."""
        return hasattr(self.crop, "window")

    @property
    def mixing(self):
        """The operations on whole batches."""
        return tuple(o for o in self.operations if getattr(o, "mixes", False))

    @property
    def mixes(self):
        """Whether images of a batch are mixed, so that labels are shares of the classes."""
        return any(operation.p > 0 for operation in self.mixing)

    @property
    def changes_images(self):
        """Whether anything is done to single images."""
        return len(self.operations) > len(self.mixing)

    def mix_arguments(self):
        """Returns the arguments of `randaugment.mix_batch`."""
        arguments = {}
        for operation in self.mixing:
            if isinstance(operation, MixUp):
                arguments |= {"mixup": operation.p, "partner": operation.partner}
            else:
                arguments["cutmix"] = operation.p
        return arguments

    def as_json(self):
        """Returns a list of dicts: an operation's `name` and its fields; of a user's the name."""
        return [
            {
                "name": name_of(operation),
                **(dataclasses.asdict(operation) if dataclasses.is_dataclass(operation) else {}),
            }
            for operation in self.operations
        ]


def _augreg(*operations):
    """A row of "How to train your ViT" (arXiv:2106.10270, section 3.3) as big_vision has it."""
    return Augmentation((InceptionCrop(), Truncate(), Flip(), *operations))


def _bit(resized, cropped, *operations):
    """BiT-HyperRule (arXiv:1912.11370, section 3.3): resize to a square, random crop, flip."""
    return Augmentation((ResizeCrop(resized / cropped), Flip(), *operations))


_BIT_MIXUP = MixUp(0.1, "reversed")

AUGMENTATIONS = {
    "none": Augmentation(),
    # For writing, where a mirror image is another sign.
    "shift": Augmentation((Shift(0.125),)),
    "handwriting": Augmentation(
        (InceptionCrop((0.85, 1.0), (0.9, 1.1)), Shift(0.07), Rotation(8.0))
    ),
    "crop": Augmentation((InceptionCrop((0.7, 1.0), (0.85, 1.18)), Shift(0.1))),
    "flip": Augmentation((Flip(),)),
    # The official fine-tuning (vit_jax/input_pipeline.py).
    "crop_flip": Augmentation((InceptionCrop(), Flip())),
    # MAE's pre-training (facebookresearch/mae main_pretrain.py).
    "mae": Augmentation((InceptionCrop((0.2, 1.0), (0.75, 1.3333), "bicubic"), Flip())),
    # The choices of big_vision's configs/transfer.py.
    "inception_crop_flip": Augmentation((InceptionCrop(), Truncate(), Flip())),
    "resize_crop_flip": Augmentation((ResizeCrop(448 / 384), Truncate(), Flip())),
    "resize_small_crop_flip": Augmentation(
        (ResizeCrop(448 / 384, "short_side", "area"), Truncate(), Flip())
    ),
    # By the size that is resized to and the size that is cut: for small images, the paper's, and
    # the code's; MixUp from 20,000 examples on.
    "bit_160_128": _bit(160, 128),
    "bit_160_128_mixup": _bit(160, 128, _BIT_MIXUP),
    "bit_448_384": _bit(448, 384),
    "bit_448_384_mixup": _bit(448, 384, _BIT_MIXUP),
    "bit_512_480": _bit(512, 480),
    "bit_512_480_mixup": _bit(512, 480, _BIT_MIXUP),
    # The same without the mirror, for VTAB's tasks whose labels say left and right.
    "bit_448_384_no_flip": Augmentation((ResizeCrop(448 / 384),)),
    # RandAugment's layers and magnitude, and MixUp's p.  light2 is vit_s16_i1k's as well.
    "augreg_none": _augreg(),
    "augreg_light1": _augreg(RandAugment(2, 0.0)),
    "augreg_light2": _augreg(RandAugment(2, 10.0), MixUp(0.2)),
    "augreg_medium1": _augreg(RandAugment(2, 15.0), MixUp(0.2)),
    "augreg_medium2": _augreg(RandAugment(2, 15.0), MixUp(0.5)),
    "augreg_strong1": _augreg(RandAugment(2, 20.0), MixUp(0.5)),
    "augreg_strong2": _augreg(RandAugment(2, 20.0), MixUp(0.8)),
}
# Of a data set whose labels say more than a crop or a mirror image keeps, its row's own.
BY_TASK = "bit_by_task"


def _operation(value):
    """An operation of ours from its JSON, anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    name = fields.pop("name", None)
    if name not in OPERATIONS:
        raise ValueError(f"An operation must be one of {sorted(OPERATIONS)}. Received: {name!r}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    known = {field.name for field in dataclasses.fields(OPERATIONS[name])}
    if not set(fields) <= known:
        raise ValueError(f"{name} has the fields {sorted(known)}. Received: {sorted(fields)}")
    return OPERATIONS[name](**fields)


def get_augmentation(augmentation, task="bit_448_384"):
    """Returns an `Augmentation`.

    Args:
        augmentation: A name in `AUGMENTATIONS`, or "bit_by_task"; an `Augmentation`; an operation
            or a tuple of them, of which ours may be dicts as `as_json` writes them.
        task: What "bit_by_task" is for a data set, a name in `AUGMENTATIONS`.

    Raises:
        ValueError: for an unknown name or operation.
        TypeError: for what is no operation.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if isinstance(augmentation, str):
        augmentation = task if augmentation == BY_TASK else augmentation
        if augmentation in AUGMENTATIONS:
            return AUGMENTATIONS[augmentation]
        known = sorted((*AUGMENTATIONS, BY_TASK))
        close = difflib.get_close_matches(augmentation, known)
        raise ValueError(
            f"`augmentation` must be an `Augmentation` or one of {known}. "
            f"Received: {augmentation!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    several = augmentation if isinstance(augmentation, (tuple, list)) else (augmentation,)
    return Augmentation(tuple(map(_operation, several)))
