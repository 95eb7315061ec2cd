"""What pixels a model wants: the one description that travels with it everywhere."""

import dataclasses
import math

RESIZE_RULES = ("squash", "short_side")
ORIENTATIONS = (None, "exif")
INTERPOLATIONS = ("bilinear", "area", "bicubic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Evaluation preprocessing: decoded RGB pixels in [0, 255] -> the model's input.

    Args:
        image_size: (height, width) of the model's input in pixels.
        value_range: the values that pixel 0 and pixel 255 become; (-1, 1) in every official family
            (`x / 127.5 - 1`).
        resize: `"squash"` resizes the whole image to `resize_to`, whatever its aspect ratio (the
            official evaluation of ViT, AugReg, SAM and BiT); `"short_side"` resizes the short side
            to `resize_to[0]` and keeps the aspect ratio (big_vision's `resize_small`).  Either is
            followed by a central crop to `image_size`.
        resize_to: (height, width) in pixels before the central crop; None means `image_size`, so
            that nothing is cropped after a squash.
        interpolation: one of `INTERPOLATIONS`.
        antialias: whether what is made smaller is smoothed first, as Pillow and with it the
            libraries on PyTorch do; not so in any official evaluation.
        mean: for each channel, what is subtracted after the mapping to `value_range`; None for
            nothing.  Models of PyTorch libraries want (x / 255 - mean) / std: `value_range=(0, 1)`.
        std: for each channel, what is then divided by; given with `mean` or not at all.
        channels: Channels of the model's input: 3 for RGB, 1 for grey (0.299 R + 0.587 G +
            0.114 B).  Image files cannot be made into any other number.
        orientation: `"exif"` turns a photograph as its EXIF tag says; None leaves pixels as they
            are stored, as officially.

    Raises:
        ValueError: for an unknown rule or interpolation, sizes that are not positive, or a
            `resize_to` smaller than `image_size`, or a mean and deviation of different lengths.
    """

    image_size: tuple[int, int]
    value_range: tuple[float, float] = (-1.0, 1.0)
    resize: str = "squash"
    resize_to: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3
    orientation: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "value_range", tuple(float(v) for v in self.value_range))
        if self.resize_to is not None:
            object.__setattr__(self, "resize_to", tuple(self.resize_to))
        for field, known in (("resize", RESIZE_RULES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"`{field}` must be one of {known}. Received: {getattr(self, field)!r}"
                )
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(
                f"`image_size` must be (height, width) in pixels. Received: {self.image_size}"
            )
        if self.resize_to is not None and (
            len(self.resize_to) != 2
            or any(r < s for r, s in zip(self.resize_to, self.image_size, strict=True))
        ):
            raise ValueError(
                "`resize_to` must be (height, width) and at least `image_size` "
                f"{self.image_size}. Received: {self.resize_to}"
            )
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"`value_range` must rise. Received: {self.value_range}")
        if not isinstance(self.antialias, bool):
            raise ValueError(f"`antialias` must be a boolean. Received: {self.antialias!r}")
        if self.orientation not in ORIENTATIONS:
            raise ValueError(
                f"`orientation` must be one of {ORIENTATIONS}. Received: {self.orientation!r}"
            )
        self._check_channels()

    def _check_channels(self):
        if type(self.channels) is not int or self.channels < 1:
            raise ValueError(
                f"`channels` must be an integer of at least 1. Received: {self.channels!r}"
            )
        if (self.mean, self.std) == (None, None):
            return
        if self.mean is None or self.std is None or len(self.mean) != len(self.std):
            raise ValueError(
                "`mean` and `std` must have one number for each channel, or both be None. "
                f"Received: {self.mean} and {self.std}"
            )
        for field in ("mean", "std"):
            object.__setattr__(self, field, tuple(float(v) for v in getattr(self, field)))
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std, default=0) <= 0:
            raise ValueError(
                f"`mean` must be finite and `std` positive. Received: {self.mean} and {self.std}"
            )

    def with_channels(self, channels):
        """The same rule for another number of channels.

        One channel has the average of `mean` and of `std`; more repeat them in turn.
        """
        stated = {"mean": self.mean, "std": self.std}
        if self.mean is not None and len(self.mean) != channels:
            for name, values in stated.items():
                stated[name] = (
                    (sum(values) / len(values),)
                    if channels == 1
                    else tuple(values[i % len(values)] for i in range(channels))
                )
        return dataclasses.replace(self, channels=channels, **stated)

    def with_image_size(self, image_size):
        """The same rule for another input size; a crop margin keeps its proportion."""
        resize_to = None
        if self.resize_to is not None:
            resize_to = tuple(
                round(new * old_to / old)
                for new, old, old_to in zip(
                    image_size, self.image_size, self.resize_to, strict=True
                )
            )
        return dataclasses.replace(self, image_size=tuple(image_size), resize_to=resize_to)
