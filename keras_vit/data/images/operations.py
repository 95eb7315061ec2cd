"""The operations that an augmentation is made of, each a small frozen dataclass.

An operation takes `(image, seed)`: float32 (h, w, C) in [0, 255] of the model's size, and int (2,),
its only source of randomness; it returns the same shape.  Two kinds differ:

- A *crop* can only come first.  It takes the place of evaluation's resizing: `resize(image, seed,
  size, interpolation)` makes the model's size of the source image, uint8 (H, W, C).  One that has
  `window(size, seed)` says which part of the source image it needs, so that no more is decoded.
- What *mixes* images (`mixes = True`) acts on the batch, and makes labels shares of the classes.

A user's operation is any callable of that shape.  `slot` names the seed that an operation gets:
those in `SLOTS` keep their numbers for ever, as the bits of a training depend on them; any other
operation gets a seed of its own from its name.
"""

import dataclasses
import zlib
from typing import ClassVar

import tensorflow as tf

from keras_vit.data.images import chance, randaugment
from keras_vit.data.images.resize import resize, short_side_size

SLOTS = {"window": 0, "flip": 1, "shift": 2, "rotation": 3, "crop": 4, "randaugment": 5}
NUM_SEEDS = len(SLOTS)
CROP_RULES = ("squash", "short_side")
MIXUP_PARTNERS = ("next", "reversed")


def name_of(operation):
    """Returns an operation's name: of ours the class, of a user's where it is defined too."""
    if type(operation).__module__ == __name__:
        return type(operation).__name__
    named = operation if hasattr(operation, "__qualname__") else type(operation)
    return f"{named.__module__}.{named.__qualname__}"


def slot_seeds(seeds, operations):
    """Returns the seed of each operation, int (2,); a second one of the same slot gets its own.

    Args:
        seeds: int (6, 2), one for each of `SLOTS`.
        operations: a tuple of operations.
    """
    found, seen = [], {}
    for operation in operations:
        slot = getattr(operation, "slot", None) or name_of(operation)
        if slot in SLOTS:
            seed = seeds[SLOTS[slot]]
        else:
            seed = tf.random.fold_in(seeds[0], zlib.crc32(slot.encode()) & 0x7FFFFFFF)
        seen[slot] = seen.get(slot, 0) + 1
        found.append(seed if seen[slot] == 1 else tf.random.fold_in(seed, seen[slot]))
    return found


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}")


def _check_not_negative(name, value):
    if not value >= 0:
        raise ValueError(f"`{name}` must not be negative. Received: {value}")


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
    """Cuts a window of the image and squashes it to the model's size (arXiv:1409.4842, section 6).

    Args:
        area_range: Least and greatest share of the image's area.
        aspect_ratio_range: Least and greatest width / height.
        interpolation: One of `RESIZE_METHODS`; None takes that of the model's preprocessing.
    """

    area_range: tuple[float, float] = (0.05, 1.0)
    aspect_ratio_range: tuple[float, float] = (0.75, 1.33)
    interpolation: str | None = None

    slot: ClassVar = "window"
    is_crop: ClassVar = True

    def __post_init__(self):
        object.__setattr__(self, "area_range", tuple(self.area_range))
        object.__setattr__(self, "aspect_ratio_range", tuple(self.aspect_ratio_range))
        if not 0 < self.area_range[0] <= self.area_range[1] <= 1:
            raise ValueError(f"`area_range` must rise within (0, 1]. Received: {self.area_range}")
        if not 0 < self.aspect_ratio_range[0] <= self.aspect_ratio_range[1]:
            raise ValueError(
                f"`aspect_ratio_range` must rise above 0. Received: {self.aspect_ratio_range}"
            )

    def window(self, size, seed):
        """Returns int32 (4,), top, left, height and width, for an image of size int32 (2,)."""
        return chance.inception_window(size, seed, self.area_range, self.aspect_ratio_range)

    def resize(self, image, seed, size, interpolation):
        """Squashes what lies in the window."""
        del seed
        return resize(image, size, self.interpolation or interpolation)


@dataclasses.dataclass(frozen=True)
class ResizeCrop:
    """Resizes the image to more than the model's size and cuts a random window of that size.

    Args:
        scale: Resized size over the model's (448 for 384 is 7 / 6).
        rule: "squash" resizes to both sides at once, "short_side" keeps the aspect ratio.
        interpolation: One of `RESIZE_METHODS`; None takes that of the model's preprocessing.
    """

    scale: float
    rule: str = "squash"
    interpolation: str | None = None

    slot: ClassVar = "crop"
    is_crop: ClassVar = True

    def __post_init__(self):
        if not self.scale >= 1:
            raise ValueError(f"`scale` must be at least 1. Received: {self.scale}")
        _check_choice("rule", self.rule, CROP_RULES)

    def resize(self, image, seed, size, interpolation):
        """Resizes, and cuts the window."""
        target = tuple(round(side * self.scale) for side in size)
        if self.rule == "short_side":
            target = short_side_size(tf.shape(image)[:2], max(target))
        image = resize(image, target, self.interpolation or interpolation)
        return chance.random_crop(image, seed, size)


@dataclasses.dataclass(frozen=True)
class Truncate:
    """Drops the fractions of the resized pixels, as big_vision does, which casts them to uint8."""

    def __call__(self, image, seed):
        return tf.floor(image)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors left and right with probability one half."""

    slot: ClassVar = "flip"

    def __call__(self, image, seed):
        return chance.random_flip(image, seed)


@dataclasses.dataclass(frozen=True)
class Shift:
    """Moves the image by up to `max_fraction` of its sides; see `chance.random_shift`."""

    max_fraction: float

    slot: ClassVar = "shift"

    def __post_init__(self):
        if not 0 <= self.max_fraction < 1:
            raise ValueError(f"`max_fraction` must be in [0, 1). Received: {self.max_fraction}")

    def __call__(self, image, seed):
        return chance.random_shift(image, seed, self.max_fraction)


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Turns the image by up to `max_degrees` either way; see `chance.random_rotation`."""

    max_degrees: float

    slot: ClassVar = "rotation"

    def __post_init__(self):
        if not 0 <= self.max_degrees <= 180:
            raise ValueError(f"`max_degrees` must be in [0, 180]. Received: {self.max_degrees}")

    def __call__(self, image, seed):
        return chance.random_rotation(image, seed, self.max_degrees)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies `layers` of 16 operations at one level; drops fractions (arXiv:1909.13719).

    Args:
        layers: Number of operations on each image.
        magnitude: Their level, officially up to 10; higher ones extrapolate.
    """

    layers: int = 2
    magnitude: float = 10.0

    slot: ClassVar = "randaugment"

    def __post_init__(self):
        _check_not_negative("layers", self.layers)
        _check_not_negative("magnitude", self.magnitude)

    def __call__(self, image, seed):
        if image.shape[-1] != 3:
            raise ValueError(f"RandAugment needs 3 channels. Received: {image.shape}; leave it out")
        return randaugment.rand_augment(tf.floor(image), seed, self.layers, self.magnitude)


@dataclasses.dataclass(frozen=True)
class MixUp:
    """Mixes the images of a batch (arXiv:1710.09412), see `randaugment.mix_batch`.

    Args:
        p: The share of the stronger image is Beta(p, p).
        partner: Image that is mixed in: the one before it ("next", big_vision), or that of the
            reversed batch ("reversed", BiT).
    """

    p: float
    partner: str = "next"

    mixes: ClassVar = True

    def __post_init__(self):
        _check_not_negative("p", self.p)
        _check_choice("partner", self.partner, MIXUP_PARTNERS)


@dataclasses.dataclass(frozen=True)
class CutMix:
    """Pastes rectangles of a batch's images into others (arXiv:1905.04899).

    Args:
        p: The share that an image keeps is Beta(p, p).
    """

    p: float

    mixes: ClassVar = True

    def __post_init__(self):
        _check_not_negative("p", self.p)


OPERATIONS = {
    cls.__name__: cls
    for cls in (InceptionCrop, ResizeCrop, Truncate, Flip, Shift, Rotation, RandAugment)
    + (MixUp, CutMix)
}
