"""Pixels as an exported model wants them, with NumPy alone.

It is copied beside ONNX and LiteRT files, and imports nothing of the package that wrote it:

    preprocess = runpy.run_path("vit.onnx.preprocess.py")["preprocess"]
    rule = json.loads(open("vit.onnx.json").read())["preprocessing"]
    pixels = numpy.asarray(PIL.Image.open("cat.jpg").convert("RGB"))
    tensors = preprocess(pixels, rule)[numpy.newaxis]

What a segmentation model sees of a picture are windows, and its answers are put together:

    tensors, places = windows(pixels, rule, stride)
    mask = merged_mask(session.run(["logits"], {"tensors": tensors})[0], places)

Shapes: H W pixels of the picture, h w of the model's input, S T of the scaled picture, n windows,
C channels, K classes.
"""

import numpy as np

_CUBIC_STEPS = 1024  # TensorFlow's bicubic looks its weights up in a table with so many steps


def preprocess(pixels, rule):
    """The model's input for one picture, as in its evaluation.

    Args:
        pixels: uint8 (H, W, C), or floats in [0, 255], of 1 or 3 channels, or as many as the
            model's; turned upright by the caller, where `rule["orientation"]` is "exif".
        rule: `preprocessing` of the file's description.

    Returns:
        float32 (h, w, C).

    Raises:
        ValueError: for another number of channels.
    """
    image_size = tuple(rule["image_size"])
    pixels, size = _scaled(pixels, rule)
    top, left = ((a - b) // 2 for a, b in zip(size, image_size, strict=True))
    pixels = pixels[top : top + image_size[0], left : left + image_size[1]]
    return _valued(pixels, rule)


def windows(pixels, rule, stride):
    """The windows that a segmentation model sees of one picture, as in its evaluation.

    Args:
        pixels: As in `preprocess`.
        rule: As in `preprocess`; its `image_size` is a window.
        stride: (vertical, horizontal), pixels between two windows: `window_stride` of the file's
            description.

    Returns:
        `(tensors, places)`: float32 (n, h, w, C), zeros where a window reaches beyond the picture,
        and what `merged_mask` needs to know.

    Raises:
        ValueError: for another number of channels.
    """
    window, original = tuple(rule["image_size"]), np.shape(pixels)[:2]
    pixels, size = _scaled(pixels, rule)
    pixels = _valued(pixels, rule)
    missing = [max(side - given, 0) for side, given in zip(window, size, strict=True)]
    pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)))
    starts = (
        [*range(0, max(extent - side, 0), step), extent - side]
        for extent, side, step in zip(pixels.shape[:2], window, stride, strict=True)
    )
    rows, columns = starts
    corners = [(top, left) for top in rows for left in columns]
    tensors = [pixels[y : y + window[0], x : x + window[1]] for y, x in corners]
    return np.stack(tensors), {"corners": corners, "scaled": size, "original": original}


def merged_mask(logits, places):
    """The class of each pixel of a picture: averaged logits, brought to its size, compared.

    Args:
        logits: float32 (n, h, w, K), of the windows.
        places: What `windows` returned beside them.

    Returns:
        uint8 (H, W).
    """
    _, height, width, num_classes = logits.shape
    size = [max(*pair) for pair in zip(places["scaled"], (height, width), strict=True)]
    total, count = np.zeros((*size, num_classes), np.float32), np.zeros((*size, 1), np.float32)
    for (top, left), part in zip(places["corners"], logits, strict=True):
        total[top : top + height, left : left + width] += part
        count[top : top + height, left : left + width] += 1
    averaged = (total / count)[: places["scaled"][0], : places["scaled"][1]]
    return np.argmax(resize(averaged, places["original"], "bilinear", False), -1).astype(np.uint8)


def _scaled(pixels, rule):
    """Pixels in [0, 255] at the size that the rule resizes to, and that size."""
    pixels = np.asarray(pixels)
    channels = rule.get("channels", 3)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, channels):
        raise ValueError(
            f"pixels must be (H, W, 1), (H, W, 3) or (H, W, {channels}). Received: {pixels.shape}"
        )
    pixels = pixels.astype(np.float32)
    if pixels.shape[2] == 1 and channels != 1:
        pixels = np.repeat(pixels, 3, axis=2)
    size = resize_to = tuple(rule.get("resize_to") or rule["image_size"])
    if rule.get("resize") == "short_side":
        sides = np.array(pixels.shape[:2], np.float32)
        size = tuple(np.rint(sides * np.float32(resize_to[0] / sides.min())).astype(int))
    method, antialias = rule.get("interpolation", "bilinear"), rule.get("antialias", False)
    return resize(pixels, size, method, antialias), size


def _valued(pixels, rule):
    """Pixels in [0, 255] -> float32 in the model's channels and values."""
    if pixels.shape[2] == 3 and rule.get("channels", 3) == 1:
        pixels = pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
    low, high = rule.get("value_range", (-1, 1))
    scaled = (pixels - 127.5) / 127.5 * ((high - low) / 2) + (high + low) / 2
    if rule.get("mean") is not None:
        scaled = (scaled - np.float32(rule["mean"])) / np.float32(rule["std"])
    return scaled.astype(np.float32)


def resize(pixels, size, method, antialias):
    """float32 (H, W, C) -> (height, width, C), with half-pixel centres, as `tf.image.resize`."""
    for axis, length in enumerate(size):
        matrix = weights(pixels.shape[axis], length, method, antialias)
        pixels = np.moveaxis(np.tensordot(matrix, pixels, (1, axis)), 0, axis)
    return np.clip(pixels, 0, 255) if method == "bicubic" else pixels


def weights(before, after, method, antialias):
    """float32 (after, before): what each of `before` pixels counts in each of `after`."""
    scale = np.float32(before / after)  # positions have 32 bits in TensorFlow, too
    centers = (np.arange(after, dtype=np.float32)[:, np.newaxis] + np.float32(0.5)) * scale
    places = np.arange(before, dtype=np.float32)
    if method == "area":
        starts = np.arange(after, dtype=np.float32)[:, np.newaxis] * scale
        overlap = np.minimum(places + 1, starts + scale) - np.maximum(places, starts)
        found = np.maximum(overlap, 0)
    elif antialias:
        kernel = _cubic if method == "bicubic" else _triangle
        found = kernel((places + np.float32(0.5) - centers) / max(scale, np.float32(1)))
    elif method == "bicubic":
        first = np.floor(centers - np.float32(0.5))
        part = np.rint((centers - np.float32(0.5) - first) * _CUBIC_STEPS) / _CUBIC_STEPS
        found = _cubic(places - first - part)
    else:
        found = _triangle(places - np.clip(centers - np.float32(0.5), 0, before - 1))
    return (found / found.sum(1, keepdims=True)).astype(np.float32)


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x):
    """Keys's cubic with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
