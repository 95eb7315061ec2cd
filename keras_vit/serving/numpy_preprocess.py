"""Pixels as an exported model wants them, with NumPy alone.

It is copied beside ONNX and LiteRT files, and imports nothing of the package that wrote it:

    preprocess = runpy.run_path("vit.onnx.preprocess.py")["preprocess"]
    rule = json.loads(open("vit.onnx.json").read())["preprocessing"]
    pixels = numpy.asarray(PIL.Image.open("cat.jpg").convert("RGB"))
    tensors = preprocess(pixels, rule)[numpy.newaxis]

Shapes: H W pixels of the picture, h w of the model's input, C channels.
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
    pixels = np.asarray(pixels)
    channels = rule.get("channels", 3)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, channels):
        raise ValueError(
            f"pixels must be (H, W, 1), (H, W, 3) or (H, W, {channels}). Received: {pixels.shape}"
        )
    pixels = pixels.astype(np.float32)
    if pixels.shape[2] == 1 and channels != 1:
        pixels = np.repeat(pixels, 3, axis=2)
    image_size = tuple(rule["image_size"])
    size = resize_to = tuple(rule.get("resize_to") or image_size)
    if rule.get("resize") == "short_side":
        sides = np.array(pixels.shape[:2], np.float32)
        size = tuple(np.rint(sides * np.float32(resize_to[0] / sides.min())).astype(int))
    method, antialias = rule.get("interpolation", "bilinear"), rule.get("antialias", False)
    pixels = resize(pixels, size, method, antialias)
    top, left = ((a - b) // 2 for a, b in zip(size, image_size, strict=True))
    pixels = pixels[top : top + image_size[0], left : left + image_size[1]]
    if pixels.shape[2] == 3 and channels == 1:
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
