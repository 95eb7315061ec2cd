"""What pixels a model wants: from the configurations of the libraries, and back.

On our side stand the arguments of `keras_vit.models.preprocessing.Preprocessing`, as a dict.
"""

import math

# Mean and deviation of ImageNet's pixels in [0, 1], timm's where a configuration names none.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pillow's numbers for its filters.
RESAMPLES = {2: "bilinear", 3: "bicubic", 4: "area"}
TIMM_INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "box": "area"}
HUB_INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic"}


def _channels(top, mean, std):
    """What becomes of pixels that are scaled to [0, top] first: fields of `Preprocessing`."""
    mean, std = _numbers(mean, "mean"), _numbers(std, "std")
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(f"mean {mean} and deviation {std} do not go together")
    if len({*zip(mean, std, strict=True)}) == 1:
        return {"value_range": ((0.0 - mean[0]) / std[0], (top - mean[0]) / std[0])}
    return {"value_range": (0.0, top), "mean": mean, "std": std}


def _numbers(values, what):
    values = values if isinstance(values, list | tuple) else [values]
    if not values or not all(_is_number(v) for v in values):
        raise ValueError(f"the {what} of the pixels must be numbers. Received: {values!r}")
    return tuple(float(value) for value in values)


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _mean_and_std(preprocessing, num_channels):
    """The mean and deviation of pixels in [0, 1], one for each channel."""
    low, high = preprocessing["value_range"]
    mean = preprocessing.get("mean") or (0.0,) * num_channels
    std = preprocessing.get("std") or (1.0,) * num_channels
    span = high - low
    return [(m - low) / span for m in mean], [s / span for s in std]


def _sides(value, what):
    """(height, width) of what a configuration calls a size."""
    if isinstance(value, dict):
        value = [value.get("height"), value.get("width")]
    sides = [value, value] if type(value) is int else value
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(type(s) is int and s > 0 for s in sides)
    ):
        raise ValueError(f"the {what} must be a height and a width. Received: {value!r}")
    return tuple(sides)


def _known(table, value, what):
    if not isinstance(value, int | str) or value not in table:
        raise ValueError(f"the {what} {value!r} is not one of {', '.join(map(str, table))}")
    return table[value]


def _name(table, ours):
    return next((name for name, known in table.items() if known == ours), None)


def from_huggingface(config):
    """The fields that a `preprocessor_config.json` of transformers tells.

    Raises:
        ValueError: for a value that is no preprocessing of ours.
    """
    top = 255.0
    if config.get("do_rescale", True):
        factor = config.get("rescale_factor", 1 / 255)
        if not _is_number(factor) or factor <= 0:
            raise ValueError(f"`rescale_factor` must be a positive number. Received: {factor!r}")
        top = 255 * factor
    normalized = config.get("do_normalize", True)
    mean, std = (config.get(f"image_{name}", 0.5) for name in ("mean", "std"))
    fields = _channels(top, mean, std) if normalized else {"value_range": (0.0, top)}
    if not config.get("do_resize", True):
        return fields
    fields["interpolation"] = _known(RESAMPLES, config.get("resample", 2), "`resample`")
    fields["antialias"] = True
    size, crop = config.get("size", 224), None
    if config.get("do_center_crop", False):
        crop = _sides(config.get("crop_size", 224), "`crop_size`")
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        size = _sides(size["shortest_edge"], "`size`")
        fields["resize"] = "short_side"
    else:
        # A bare number was the short side where a crop follows, and both sides elsewhere.
        fields["resize"] = "short_side" if crop and type(size) is int else "squash"
        size = _sides(size, "`size`")
    return {**fields, "image_size": crop or size, "resize_to": size}


def to_huggingface(preprocessing, num_channels):
    """The `preprocessor_config.json` with which transformers makes the same pixels.

    But for smoothing, which transformers always does.
    """
    mean, std = _mean_and_std(preprocessing, num_channels)
    height, width = preprocessing["image_size"]
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": _name(RESAMPLES, preprocessing["interpolation"]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    resize_to = preprocessing["resize_to"] or (height, width)
    if preprocessing["resize"] == "short_side" or tuple(resize_to) != (height, width):
        short_side = preprocessing["resize"] == "short_side"
        sides = {"height": resize_to[0], "width": resize_to[1]}
        config |= {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": resize_to[0]} if short_side else sides,
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
    return config


def from_timm(config):
    """The fields that a `pretrained_cfg` of timm tells; what it leaves out is timm's default.

    Raises:
        ValueError: for a value that is no preprocessing of ours.
    """
    fields = _channels(1.0, config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD))
    size = config.get("input_size", [3, 224, 224])
    if not isinstance(size, list) or len(size) != 3:
        raise ValueError(f"`input_size` must be (channels, height, width). Received: {size!r}")
    size = _sides(size[1:], "`input_size`")
    part = config.get("crop_pct") or 0.875
    if not _is_number(part) or not 0 < part <= 1:
        raise ValueError(f"`crop_pct` must be in (0, 1]. Received: {part!r}")
    rules = {"center": "short_side", "squash": "squash"}
    return {
        **fields,
        "interpolation": _known(
            TIMM_INTERPOLATIONS, config.get("interpolation", "bicubic"), "`interpolation`"
        ),
        "antialias": True,
        "resize": _known(rules, config.get("crop_mode") or "center", "`crop_mode`"),
        "image_size": size,
        "resize_to": tuple(math.floor(side / part) for side in size),
    }


def to_timm(preprocessing, num_channels):
    """The `pretrained_cfg` with which timm makes the same pixels, but for smoothing."""
    mean, std = _mean_and_std(preprocessing, num_channels)
    height, width = preprocessing["image_size"]
    target = (preprocessing["resize_to"] or (height, width))[0]
    part = height / target
    if math.floor(height / part) != target:
        part = height / (target + 0.5)
    return {
        "input_size": [num_channels, height, width],
        "interpolation": _name(TIMM_INTERPOLATIONS, preprocessing["interpolation"]),
        "crop_pct": part,
        "crop_mode": "center" if preprocessing["resize"] == "short_side" else "squash",
        "mean": mean,
        "std": std,
    }


def from_keras_hub(config):
    """The fields that the configuration of a KerasHub `ImageConverter` tells.

    Raises:
        ValueError: for a value that is no preprocessing of ours.
    """
    scale = _numbers(1.0 if config.get("scale") is None else config["scale"], "scale")
    offset = _numbers(0.0 if config.get("offset") is None else config["offset"], "offset")
    count = max(len(scale), len(offset))
    scale, offset = (v * count if len(v) == 1 else v for v in (scale, offset))
    if len(scale) != len(offset) or min(scale) <= 0:
        raise ValueError(f"scale {scale} and offset {offset} do not go together")
    if len({*zip(scale, offset, strict=True)}) == 1:
        fields = {"value_range": (offset[0], 255 * scale[0] + offset[0])}
    else:
        std = tuple(1 / (255 * s) for s in scale)
        mean = tuple(-o * s for o, s in zip(offset, std, strict=True))
        fields = {"value_range": (0.0, 1.0), "mean": mean, "std": std}
    if config.get("pad_to_aspect_ratio"):
        raise ValueError("`pad_to_aspect_ratio` is no preprocessing of keras_vit")
    return {
        **fields,
        "interpolation": _known(
            HUB_INTERPOLATIONS, config.get("interpolation", "bilinear"), "`interpolation`"
        ),
        "antialias": bool(config.get("antialias", False)),
        "resize": "short_side" if config.get("crop_to_aspect_ratio", True) else "squash",
        **_hub_size(config),
    }


def _hub_size(config):
    if config.get("image_size") is None:
        return {}
    return {"image_size": _sides(config["image_size"], "`image_size`")}


def to_keras_hub(preprocessing, num_channels):
    """The configuration of an `ImageConverter`; None for a rule that KerasHub has none for."""
    size = tuple(preprocessing["image_size"])
    interpolation = _name(HUB_INTERPOLATIONS, preprocessing["interpolation"])
    if interpolation is None or tuple(preprocessing["resize_to"] or size) != size:
        return None
    mean, std = _mean_and_std(preprocessing, num_channels)
    return {
        "image_size": list(size),
        "scale": [1 / (255 * s) for s in std],
        "offset": [-m / s for m, s in zip(mean, std, strict=True)],
        "interpolation": interpolation,
        "antialias": preprocessing["antialias"],
        "crop_to_aspect_ratio": preprocessing["resize"] == "short_side",
        "pad_to_aspect_ratio": False,
    }
