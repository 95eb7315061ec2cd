"""What image files hold, without a model: their contents' digests, and what they look like."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os

import numpy as np
import tensorflow as tf

from keras_vit.data.images import decode
from keras_vit.data.images.image_problems import MAX_FILE_BYTES, MAX_FILE_PIXELS
from keras_vit.data.near_duplicates import group
from keras_vit.data.sources.files import file_version
from keras_vit.files import read_regular

_NUM_COLOURS = 8 * 8 * 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is known of one file.

    Attributes:
        digest: SHA-256 of its content, hexadecimal; of its path where it cannot be read.
        colours: float32 (192,), at 8 x 8 pixels; nan where it is not decoded.
        is_constant: Whether all of its pixels are the same.
        problem: Why it is not decoded, or "".
    """

    digest: str
    colours: np.ndarray
    is_constant: bool
    problem: str


@tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
def _small(image):
    # The mean of a few pixels is as good, and much faster.
    steps = tf.maximum(tf.shape(image)[:2] // 64, 1)
    pixels = tf.cast(image[:: steps[0], :: steps[1]], tf.float32)
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    is_constant = tf.reduce_all(image == image[:1, :1])
    return tf.image.resize(pixels, (8, 8), method="area"), is_constant


@functools.lru_cache(2**18)
def _look(path, version, max_pixels):
    del version  # another one is another file
    unknown = np.full(_NUM_COLOURS, np.nan, np.float32)
    try:
        data = read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        return Picture(digest, unknown, False, error.strerror or str(error))
    digest = hashlib.sha256(data).hexdigest()
    limits = {"max_pixels": max_pixels, "max_bytes": MAX_FILE_BYTES}
    image, problem = decode.try_decode_image(data, **limits)
    problem = problem.numpy().decode()
    if problem:
        problem = decode.explain_image_problem(data, **limits) or problem
        return Picture(digest, unknown, False, problem)
    colours, is_constant = (value.numpy() for value in _small(image))
    return Picture(digest, colours.reshape(-1), bool(is_constant), "")


def survey(paths, *, max_pixels=MAX_FILE_PIXELS, progress=None):
    """Looks at image files, each once in a process as long as it does not change.

    Args:
        paths: Of the files.
        max_pixels: Largest height x width that is decoded.
        progress: A function that is called after each file, or None.

    Returns:
        A `Picture` for each path.
    """

    def look(path):
        return _look(os.fspath(path), file_version(path), max_pixels)

    pictures = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for picture in pool.map(look, paths):
            pictures.append(picture)
            if progress is not None:
                progress()
    return pictures


def groups_of(pictures):
    """For each `Picture`, the smallest index of those that look the same (`near_duplicates`)."""
    colours = np.array([picture.colours for picture in pictures], np.float32)
    colours = colours.reshape(-1, _NUM_COLOURS)
    return group([picture.digest for picture in pictures], colours)
