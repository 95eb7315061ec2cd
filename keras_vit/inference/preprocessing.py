"""The public function from images to a model's input."""

import os

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.image_problems import MAX_FILE_BYTES, MAX_FILE_PIXELS
from keras_vit.data.images.preprocess import evaluation_image, float_image
from keras_vit.files import open_regular
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import pixel_layer
from keras_vit.models.preprocessing import Preprocessing


def preprocess(images, model, *, max_pixels=MAX_FILE_PIXELS):
    """Turns images into a model's input, to the same bits as training, `evaluate` and `predict`.

    It works eagerly on any backend, and inside `tf.data.Dataset.map` for tensors.

    Args:
        images: One of these, or a list of them for a batch:

            - the path of an image file, text or `os.PathLike`;
            - the bytes of an image file, or a string tensor of them, () or (B,);
            - pixels in [0, 255], as they were decoded: (H, W), (H, W, C) or (B, H, W, C), an array
              or a tensor.  Floats are taken too, as `keras.utils.img_to_array` gives them;
            - a Pillow image.
        model: A model of this package, one that was cut from one, or a `Preprocessing`.
        max_pixels: Largest height x width that is decoded; above 2^25 a JPEG is decoded at 1/2, 1/4
            or 1/8.

    Returns:
        float32 (h, w, C), or (B, h, w, C) for a batch, in the model's `value_range`: a
        `tf.Tensor` for a `tf.Tensor`, else a NumPy array.

    Raises:
        TypeError: for what is no image.
        ValueError: for a shape or values that are no pixels, or a model that has its preprocessing
            built in.
        tf.errors.InvalidArgumentError: for a file that is not decoded; the message names it.
        OSError: for a file that cannot be read.

    Example:

    >>> import keras_vit
    >>> rule = keras_vit.Preprocessing(image_size=(4, 4))
    >>> batch = keras_vit.preprocess([np.zeros((9, 7, 3), np.uint8)], rule)
    >>> batch.shape, float(batch.max())
    ((1, 4, 4, 3), -1.0)
    """
    if not isinstance(model, (keras.Model, Preprocessing)):
        raise TypeError(
            "`model` must be a model of keras_vit or a `Preprocessing`. Received: "
            f"{type(model).__name__}"
        )
    if pixel_layer(model) is not None:
        raise ValueError(
            f"`model` must take preprocessed images. Received: {model.name!r}, which has its "
            "preprocessing built in; give it the pixels as they were decoded"
        )
    rule = model if isinstance(model, Preprocessing) else preprocessing_of(model)
    if isinstance(images, tf.Tensor):
        return _tensor(images, rule, max_pixels)
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("A batch must have an image. Received: an empty list")
        return np.stack([preprocess(image, rule, max_pixels=max_pixels) for image in images])
    return _tensor(_as_tensor(images), rule, max_pixels, name=_name(images)).numpy()


def _name(image):
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else None


def _as_tensor(image):
    if isinstance(image, (str, os.PathLike)):
        with open_regular(image) as file:
            return tf.constant(file.read(MAX_FILE_BYTES + 1))
    if isinstance(image, bytes):
        return tf.constant(image)
    if hasattr(image, "convert") and hasattr(image, "mode"):  # Pillow's
        image = image.convert("L" if image.mode == "L" else "RGB")
    values = np.asarray(image)
    if values.dtype.kind not in "uif":
        raise TypeError(
            "An image must be a path, bytes, or pixels in [0, 255]. Received: "
            f"{type(image).__name__} of {values.dtype}"
        )
    return _in_range(tf.constant(values))


def _in_range(pixels):
    """Whole numbers as uint8, floats as float32, where they are pixels."""
    if tf.is_symbolic_tensor(pixels):
        is_float = pixels.dtype.is_floating
        return tf.cast(pixels, tf.float32 if is_float else tf.uint8)
    if pixels.dtype == tf.uint8 or not tf.size(pixels):
        return pixels
    values = pixels.numpy()
    if not (values.min() >= 0 and values.max() <= 255):
        raise ValueError(
            f"Pixels must be in [0, 255], as they were decoded. Received: {values.dtype.name} from "
            f"{values.min():g} to {values.max():g}; do not scale them first"
        )
    return tf.cast(pixels, tf.float32 if pixels.dtype.is_floating else tf.uint8)


def _one(pixels, rule):
    if pixels.shape.rank == 2:
        pixels = pixels[..., tf.newaxis]
    return (evaluation_image if pixels.dtype == tf.uint8 else float_image)(pixels, rule)


def _tensor(images, rule, max_pixels, name=None):
    shape = (*rule.image_size, rule.channels)

    def decode_one(encoded):
        pixels = decode_image(
            encoded,
            name=name,
            max_pixels=max_pixels,
            max_bytes=MAX_FILE_BYTES,
            orientation=rule.orientation,
        )
        return evaluation_image(pixels, rule)

    def each(function):
        return tf.map_fn(function, images, fn_output_signature=tf.TensorSpec(shape, tf.float32))

    if images.dtype == tf.string:
        if images.shape.rank == 0:
            return decode_one(images)
        if images.shape.rank == 1:
            return each(decode_one)
    else:
        images = _in_range(images)
        if images.shape.rank in (2, 3):
            return _one(images, rule)
        if images.shape.rank == 4:
            return each(lambda pixels: _one(pixels, rule))
    raise ValueError(
        "Images must be (H, W), (H, W, C), (B, H, W, C), or strings () or (B,). Received: "
        f"{images.dtype.name} {images.shape}"
    )
