"""Numbers that a checkpoint or the JSON files beside it give, held against what any model has."""

from keras_vit.errors import CheckpointError
from keras_vit.untrusted import check_number

# A side in pixels, and the area: sixteen times those of the largest published model.
MAX_SIDE, MAX_PIXELS = 1 << 13, 1 << 24
# How much larger than the crop an image may be resized to; timm's least `crop_pct` is above 0.5.
MAX_MARGIN = 4
MAX_EPSILON = 0.1
MAX_VALUE = 1e6
MIN_STD = 1e-6
EPSILONS = ("layer_norm_epsilon", "group_norm_epsilon", "conv_epsilon")


def check(source, config, preprocessing, is_own_size=True):
    """Raises CheckpointError unless a file's numbers are within the ranges of this module.

    Args:
        source: What the user named, for the message.
        config: Configuration of the model as the file has it, with the caller's image size.
        preprocessing: `Preprocessing` of the file, or None.
        is_own_size: Whether the image size is the file's and not the caller's.
    """
    try:
        for name in EPSILONS:
            if getattr(config, name, None) is not None:
                check_number(getattr(config, name), f"`{name}`", low=0.0, high=MAX_EPSILON)
        if is_own_size:
            _check_size(config.image_size, "`image_size`")
        if preprocessing is not None:
            _check_preprocessing(preprocessing, getattr(config, "in_channels", 3))
    except ValueError as error:
        raise CheckpointError(source, f"has an invalid model configuration: {error}") from error


def _check_size(size, what):
    for side in size:
        check_number(side, what, low=1, high=MAX_SIDE)
    check_number(size[0] * size[1], f"{what}, height x width,", low=1, high=MAX_PIXELS)


def _check_preprocessing(preprocessing, num_channels):
    size = preprocessing.image_size
    _check_size(size, "the preprocessing's `image_size`")
    for side, resized in zip(size, preprocessing.resize_to or size, strict=True):
        check_number(resized, "`resize_to`", low=side, high=MAX_MARGIN * side)
    for value in preprocessing.value_range:
        check_number(value, "`value_range`", low=-MAX_VALUE, high=MAX_VALUE)
    for name, low in (("mean", -MAX_VALUE), ("std", MIN_STD)):
        values = getattr(preprocessing, name) or ()
        if values and len(values) not in (1, num_channels):
            raise ValueError(
                f"`{name}` must have {num_channels} numbers, one for each channel. Received: "
                f"{len(values)}"
            )
        for value in values:
            check_number(value, f"`{name}`", low=low, high=MAX_VALUE)
