"""One warning where pixels reach a model that are not what it wants."""

import functools
import weakref

import keras
import numpy as np
from absl import logging

from keras_vit.models.classifier import found_preprocessing
from keras_vit.models.pixel_model import pixel_layer

_MARGIN = 1.5  # widths of the value range: what bicubic resizing overshoots is far less
_NUM_IMAGES = 8
# Each is read once: to begin one may fill a shuffle buffer.
_checked_datasets = weakref.WeakSet()
_warned = weakref.WeakSet()


def pixel_problem(pixels, preprocessing):
    """Says why values cannot be a model's input.

    Args:
        pixels: Array of images, (B, h, w, C).
        preprocessing: The model's `Preprocessing`.

    Returns:
        A clause, or None.
    """
    if pixels.dtype.kind in "iub":
        return f"its images are {pixels.dtype.name}"
    mean, std = (np.zeros(1), np.ones(1))
    if preprocessing.mean is not None:
        mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    low, high = (np.array(preprocessing.value_range)[:, np.newaxis] - mean) / std
    low, high = low.min(), high.max()
    span = _MARGIN * (high - low)
    least, most = float(np.min(pixels)), float(np.max(pixels))
    if least < low - span or most > high + span:
        return f"its images are from {least:g} to {most:g} for a range of {low:g} to {high:g}"
    return None


def scaled_problem(pixels):
    """Says why values cannot be pixels in [0, 255] as they were decoded; a clause, or None."""
    least, most = float(np.min(pixels)), float(np.max(pixels))
    if pixels.dtype.kind == "f" and (least < 0 or 0 < most <= 1):
        return f"its images are from {least:g} to {most:g}"
    return None


def _first_images(x):
    """Some images of what `fit`, `evaluate` and `predict` take, or None."""
    if hasattr(x, "element_spec"):  # a `tf.data.Dataset`
        x = next(iter(x.take(1)), None)
    elif isinstance(x, keras.utils.PyDataset):
        x = x[0] if x.num_batches else None
    while isinstance(x, (tuple, list)) and x:
        x = x[0]
    if x is None or isinstance(x, dict) or not hasattr(x, "shape") or len(x.shape) != 4:
        return None
    return keras.ops.convert_to_numpy(x[:_NUM_IMAGES])


def warn_of_pixels(model, x, steps):
    """Warns, once for a model, of images that are not what it wants.

    Args:
        model: A `keras.Model`, of this package, built on one, or any other, of which nothing is
            known.
        x: What `fit`, `evaluate` or `predict` take.
        steps: Their number of steps, or None.  A data set whose steps are given may be without end
            or costly to begin: it is not read.  Others are read once, their first batch.
    """
    is_dataset = hasattr(x, "element_spec") or isinstance(x, keras.utils.PyDataset)
    if model in _warned or x is None or (steps is not None and is_dataset):
        return
    takes_pixels = pixel_layer(model) is not None
    rule = None if takes_pixels else found_preprocessing(model)
    if not takes_pixels and rule is None:
        return
    if is_dataset:
        if x in _checked_datasets:
            return
        _checked_datasets.add(x)
    images = _first_images(x)
    if images is None:
        return
    problem = scaled_problem(images) if takes_pixels else pixel_problem(images, rule)
    if problem is None:
        return
    _warned.add(model)
    if takes_pixels:
        wants, remedy = "pixels as they were decoded", "do not scale them first"
    else:
        wants = "pixels that are scaled"
        remedy = "pass the images through `keras_vit.preprocess(images, model)` first"
    logging.warning(
        "%s wants %s, and %s: its answers will be wrong; %s", model.name, wants, problem, remedy
    )


def _watched(method, steps):
    @functools.wraps(method)
    def watched(self, x=None, *args, **kwargs):
        warn_of_pixels(self, x, kwargs.get(steps))
        return method(self, x, *args, **kwargs)

    watched.is_watched = True
    return watched


def watch():
    """Has `fit`, `evaluate` and `predict` of every `keras.Model` look at their first images.

    A model with an own head that was made with Keras's functional API is of Keras's class: this is
    the one place where its data are seen.  Models of which nothing is known go on as ever.
    """
    for name, steps in (("fit", "steps_per_epoch"), ("evaluate", "steps"), ("predict", "steps")):
        method = getattr(keras.Model, name)
        if not hasattr(method, "is_watched"):
            setattr(keras.Model, name, _watched(method, steps))
