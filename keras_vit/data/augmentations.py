"""What training may do to images, as data: one dataclass, and the named ones of the sources."""

import dataclasses
import difflib

CROP_RULES = ("squash", "short_side")
MIXUP_PARTNERS = ("next", "reversed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to an image beyond evaluation's preprocessing, in the order of the fields.

    At most one of `area_range` and `crop_scale` is set; where neither is, the image is resized as
    in evaluation.

    Args:
        area_range: the least and the greatest share of the area of an `inception_crop`, which is
            squashed to the input size.
        aspect_ratio_range: the least and the greatest width / height of that crop.
        crop_scale: resizes the image to so many times the input size (448 for 384 is 7 / 6) and
            cuts a random window of the input size.
        crop_rule: `"squash"` resizes to both sides at once, `"short_side"` keeps the aspect ratio.
        interpolation: of the resizing, one of `preprocess.RESIZE_METHODS`; None takes that of the
            model's preprocessing.
        truncate: drops the fractions of the resized pixels, as big_vision does, which casts them
            back to uint8; the official fine-tuning keeps them.
        flip: whether `random_flip` is applied.
        max_shift: `max_fraction` of a `random_shift` after resizing.
        max_rotation: `max_degrees` of a `random_rotation` after resizing.
        randaugment_layers: operations of `augment.rand_augment` on each image; they drop fractions.
        randaugment_magnitude: their level, officially up to 10; higher ones extrapolate.
        mixup: p of `augment.mix_batch`, whose share of the stronger image is Beta(p, p); 0 is none.
        mixup_partner: which image of the batch is mixed in: the one before it (`"next"`,
            big_vision), or that of the reversed batch (`"reversed"`, BiT).
        cutmix: p of CutMix, in the same way.  Where both are set, each batch gets one of the two
            with equal chance.

    Raises:
        ValueError: for ranges that do not rise, values that leave their bounds, or unknown names.
    """

    area_range: tuple[float, float] | None = None
    aspect_ratio_range: tuple[float, float] = (0.75, 1.33)
    crop_scale: float | None = None
    crop_rule: str = "squash"
    interpolation: str | None = None
    truncate: bool = False
    flip: bool = False
    max_shift: float = 0.0
    max_rotation: float = 0.0
    randaugment_layers: int = 0
    randaugment_magnitude: float = 0.0
    mixup: float = 0.0
    mixup_partner: str = "next"
    cutmix: float = 0.0

    def __post_init__(self):
        if self.area_range is not None and not 0 < self.area_range[0] <= self.area_range[1] <= 1:
            raise ValueError(f"`area_range` must rise within (0, 1]. Received: {self.area_range}")
        if not 0 < self.aspect_ratio_range[0] <= self.aspect_ratio_range[1]:
            raise ValueError(
                f"`aspect_ratio_range` must rise above 0. Received: {self.aspect_ratio_range}"
            )
        if self.crop_scale is not None and not self.crop_scale >= 1:
            raise ValueError(f"`crop_scale` must be at least 1. Received: {self.crop_scale}")
        if self.crop_scale is not None and self.area_range is not None:
            raise ValueError(
                "only one of `area_range` and `crop_scale` may be set. "
                f"Received: {self.area_range} and {self.crop_scale}"
            )
        if not 0 <= self.max_shift < 1:
            raise ValueError(f"`max_shift` must be in [0, 1). Received: {self.max_shift}")
        if not 0 <= self.max_rotation <= 180:
            raise ValueError(f"`max_rotation` must be in [0, 180]. Received: {self.max_rotation}")
        for name in ("randaugment_layers", "randaugment_magnitude", "mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative. Received: {getattr(self, name)}")
        for name, known in (("crop_rule", CROP_RULES), ("mixup_partner", MIXUP_PARTNERS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received: {getattr(self, name)!r}"
                )

    @property
    def mixes(self):
        """Whether images of a batch are mixed, so that labels are shares of the classes."""
        return self.mixup > 0 or self.cutmix > 0


def _augreg(layers=0, magnitude=0.0, mixup=0.0):
    """A row of "How to train your ViT" (arXiv:2106.10270, section 3.3) as big_vision has it."""
    return Augmentation(
        area_range=(0.05, 1.0),
        truncate=True,
        flip=True,
        randaugment_layers=layers,
        randaugment_magnitude=magnitude,
        mixup=mixup,
    )


def _bit(resized, cropped, mixup=0.0):
    """BiT-HyperRule (arXiv:1912.11370, section 3.3): resize to a square, random crop, flip."""
    return Augmentation(
        crop_scale=resized / cropped, flip=True, mixup=mixup, mixup_partner="reversed"
    )


AUGMENTATIONS = {
    "none": Augmentation(),
    # For writing, where a mirror image is another sign.
    "shift": Augmentation(max_shift=0.125),
    "handwriting": Augmentation(
        area_range=(0.85, 1.0), aspect_ratio_range=(0.9, 1.1), max_shift=0.07, max_rotation=8.0
    ),
    "crop": Augmentation(area_range=(0.7, 1.0), aspect_ratio_range=(0.85, 1.18), max_shift=0.1),
    # The official fine-tuning (vit_jax/input_pipeline.py).
    "crop_flip": Augmentation(area_range=(0.05, 1.0), flip=True),
    # The choices of big_vision's configs/transfer.py.
    "inception_crop_flip": Augmentation(area_range=(0.05, 1.0), truncate=True, flip=True),
    "resize_crop_flip": Augmentation(crop_scale=448 / 384, truncate=True, flip=True),
    "resize_small_crop_flip": Augmentation(
        crop_scale=448 / 384, crop_rule="short_side", interpolation="area", truncate=True, flip=True
    ),
    # By the size that is resized to and the size that is cut: for small images, the paper's, and
    # the code's; MixUp from 20,000 examples on.
    "bit_160_128": _bit(160, 128),
    "bit_160_128_mixup": _bit(160, 128, mixup=0.1),
    "bit_448_384": _bit(448, 384),
    "bit_448_384_mixup": _bit(448, 384, mixup=0.1),
    "bit_512_480": _bit(512, 480),
    "bit_512_480_mixup": _bit(512, 480, mixup=0.1),
    # RandAugment's layers and magnitude, and MixUp's p.  light2 is vit_s16_i1k's as well.
    "augreg_none": _augreg(),
    "augreg_light1": _augreg(2, 0.0),
    "augreg_light2": _augreg(2, 10.0, 0.2),
    "augreg_medium1": _augreg(2, 15.0, 0.2),
    "augreg_medium2": _augreg(2, 15.0, 0.5),
    "augreg_strong1": _augreg(2, 20.0, 0.5),
    "augreg_strong2": _augreg(2, 20.0, 0.8),
}


def get_augmentation(augmentation):
    """Returns the `Augmentation` of that name, or the one that is passed.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if augmentation not in AUGMENTATIONS:
        close = difflib.get_close_matches(str(augmentation), AUGMENTATIONS)
        raise ValueError(
            f"`augmentation` must be an `Augmentation` or one of {sorted(AUGMENTATIONS)}. "
            f"Received: {augmentation!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return AUGMENTATIONS[augmentation]
