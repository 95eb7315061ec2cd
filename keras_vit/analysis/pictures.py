"""Photographs: from files to the model's input, and back to what a person looks at.

Shapes: B images, H W pixels, C channels.
"""

import dataclasses
import os

import numpy as np

from keras_vit.data.catalog.folders import image_files
from keras_vit.data.images.image_problems import (
    MAX_FILE_BYTES,
    MAX_FILE_PIXELS,
    explain_image_problem,
)
from keras_vit.data.images.try_prepare import try_prepare_image
from keras_vit.files import read_regular


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photographs:
    """Image files as one model takes them.

    Attributes:
        names: Path of each image as text.
        images: (B, H, W, 3) float32, the model's input.
        skipped: (path, reason) of each file that cannot be read.
        num_more: Number of files that were not looked at.
    """

    names: tuple[str, ...]
    images: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    num_more: int = 0


def read_photographs(paths, preprocessing, max_images=None, max_pixels=None):
    """Reads image files as evaluation does.

    Args:
        paths: Of image files, and of folders that are searched for images.
        preprocessing: The model's `Preprocessing`.
        max_images: Number of images that are read at most; None for all.
        max_pixels: Largest height x width that is decoded; None takes 2^28.

    Returns:
        `Photographs`.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a folder without images, or if no image can be read.
    """
    names, images, skipped, looked_at = [], [], [], 0
    files = image_files(paths)
    for file in files:
        if max_images is not None and len(images) == max_images:
            break
        looked_at += 1
        image, problem = _read(file, preprocessing, max_pixels or MAX_FILE_PIXELS)
        name = os.fspath(file)
        if problem:
            skipped.append((name, problem))
        else:
            names.append(name)
            images.append(image)
    if not images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ValueError(f"at least one image must be readable. Received: {reasons}")
    return Photographs(
        names=tuple(names),
        images=np.stack(images),
        skipped=tuple(skipped),
        num_more=len(files) - looked_at,
    )


def _read(file, preprocessing, max_pixels):
    """(image, "") or (None, why there is none)."""
    try:
        encoded = read_regular(file, MAX_FILE_BYTES)
    except OSError as error:
        return None, error.strerror or str(error)
    limits = {"max_pixels": max_pixels, "max_bytes": MAX_FILE_BYTES}
    image, problem = try_prepare_image(encoded, preprocessing, **limits)
    problem = problem.numpy().decode()
    if problem:
        return None, explain_image_problem(encoded, **limits) or problem
    return image.numpy(), ""


def to_pixels(images, preprocessing):
    """What the model's input looks like: the mapping of the preprocessing undone.

    Args:
        images: (B, H, W, C) as the model takes them.
        preprocessing: The model's `Preprocessing`.

    Returns:
        (B, H, W, 3) uint8; of other numbers of channels the first three, or the first one as grey.
    """
    values = np.asarray(images, "float32")
    if preprocessing.mean is not None:
        values = values * np.float32(preprocessing.std) + np.float32(preprocessing.mean)
    low, high = preprocessing.value_range
    pixels = np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255).astype("uint8")
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    return pixels[..., :3]
