"""Segmentation models -> SavedModels that take images of any size and answer with their masks.

Shapes: B batch, H W pixels of an image, n windows, h w of a window, C channels, K classes.
"""

import dataclasses
import json

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images import windows
from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.image_problems import MAX_PIXELS
from keras_vit.data.images.try_prepare import try_size_image
from keras_vit.data.segmenter import Segmenter
from keras_vit.errors import ExportError
from keras_vit.serving.checks import TOLERANCES, sample_images
from keras_vit.serving.export import versions
from keras_vit.serving.forward import tensorflow_forward
from keras_vit.serving.options import ServingOptions
from keras_vit.serving.versions import new_version

FORMAT = "keras_vit.segmentation/1"
MODEL_JSON = "model.json"
# Of the pixels that may fall to another class where two logits are equal but for rounding.
_TIES = 1e-3


class MaskModule(tf.Module):
    """What is written as a SavedModel.

    Args:
        forward: Function from float32 (n, h, w, C) to logits (n, h, w, K).
        variables: What it reads.
        preprocessing: The model's `Preprocessing`.
        stride: (vertical, horizontal), pixels between two windows.
        max_pixels: The largest height x width of an image.
    """

    def __init__(self, forward, variables, preprocessing, stride, max_pixels):
        super().__init__(name="keras_vit")
        self.model_variables = variables
        self._forward = forward
        self._rule, self._stride, self._max_pixels = preprocessing, stride, max_pixels
        shape = (None, *preprocessing.image_size, preprocessing.channels)
        specs = {
            "serving_default": (self._from_bytes, [None], tf.string, "image_bytes"),
            "image": (self._from_image, [None, None, 3], tf.uint8, "image"),
            "tensors": (self._logits, shape, tf.float32, "tensors"),
        }
        self.endpoints = {
            name: tf.function(
                function,
                input_signature=[tf.TensorSpec(spec, dtype, name=argument)],
                autograph=False,
            )
            for name, (function, spec, dtype, argument) in specs.items()
        }

    def _mask(self, image):
        """uint8 (H, W, 3) -> uint8 (H, W)."""
        parts, corners, size = windows.windows_of(image, self._rule, self._stride)
        logits = tf.map_fn(lambda part: self._forward(part[tf.newaxis])[0], parts)
        logits = tf.ensure_shape(logits, (None, *self._rule.image_size, logits.shape[-1]))
        original = tf.shape(image)[:2]
        merged = windows.merged(logits, corners, size)
        return tf.cast(windows.classes_at(merged, original), tf.uint8)

    def _from_bytes(self, image_bytes):
        def one(encoded):
            image, problem = try_size_image(encoded, self._rule, self._max_pixels)
            good = tf.debugging.Assert(tf.equal(problem, ""), [problem])
            with tf.control_dependencies([good]):
                return tf.io.encode_png(self._mask(tf.identity(image))[..., tf.newaxis])

        image_bytes = tf.ensure_shape(image_bytes, (None,))
        return {"masks": tf.map_fn(one, image_bytes, fn_output_signature=tf.string)}

    def _from_image(self, image):
        image = tf.ensure_shape(image, (None, None, 3))
        number = tf.size(image, tf.int64) // 3
        fits = (number > 0) & (number <= self._max_pixels)
        rule = tf.debugging.Assert(fits, [f"an image must have 1 to {self._max_pixels} pixels"])
        with tf.control_dependencies([rule]):
            return {"mask": self._mask(tf.identity(image))}

    def _logits(self, tensors):
        return {"logits": self._forward(tensors)}


def export_segmentation(model, directory, *, class_names=None, metrics=None, max_pixels=MAX_PIXELS):
    """Writes a segmentation model as a SavedModel, `directory/<version>/`.

    Signatures: `serving_default` takes `image_bytes`, string (B,), the bytes of image files of any
    size, and returns `masks`, string (B,), PNGs of each image's own size whose values are classes;
    `image` takes uint8 (H, W, 3) and returns `mask`, uint8 (H, W); `tensors` takes windows,
    float32 (B, h, w, C), and returns `logits` (B, h, w, K).

    Args:
        model: `SegmentationModel`.
        directory: Folder of the versions; it is made if needed.
        class_names: K names; None takes the model's own.
        metrics: A dict of plain values about the model's quality, for `assets/model.json`.
        max_pixels: The largest height x width of an image that is decoded.

    Returns:
        `(path, difference)`: the new version's folder, and the largest difference of its logits
        from the model's, relative to the largest logit.

    Raises:
        ValueError: For a number of names that is not K, a model without RGB input, or a backend
            other than TensorFlow and JAX.
        ExportError: If the written model does not reproduce the model's logits and masks.
        OSError: If the folder cannot be written.
    """
    about = describe_segmentation(model, class_names, FORMAT)
    functions, variables = tensorflow_forward(model, ServingOptions())
    module = MaskModule(
        functions["logits"], variables, model.preprocessing, model.window_stride, max_pixels
    )
    description = {
        **about,
        "max_pixels": max_pixels,
        "signatures": sorted(module.endpoints),
        "metrics": metrics,
    }
    with new_version(directory) as (temporary, publish):
        tf.saved_model.save(module, str(temporary), signatures=dict(module.endpoints))
        (temporary / "assets").mkdir(exist_ok=True)
        text = json.dumps(description, indent=2) + "\n"
        (temporary / "assets" / MODEL_JSON).write_text(text, encoding="utf-8")
        try:
            difference = _check(temporary, model)
        except tf.errors.OpError as error:
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                "nothing was published: TensorFlow cannot run what was written. On the JAX backend "
                "it may be older than JAX: export with KERAS_BACKEND=tensorflow, which reads the "
                f"same file. {reason}"
            ) from error
        return publish(), difference


def describe_segmentation(model, class_names, format):
    """What is said about a segmentation model beside what was written of it, plain values.

    Raises:
        ValueError: For a number of names that is not K, or a model without RGB input.
    """
    names = class_names if class_names is not None else model.class_names
    number = model.head.num_classes
    if names is not None and len(names) != number:
        raise ValueError(
            f"`class_names` must name each of the {number} classes. Received: {len(names)}"
        )
    if model.preprocessing.channels != 3:
        raise ValueError(
            "an export of a segmentation takes RGB images. Received: a model of "
            f"{model.preprocessing.channels} channels"
        )
    return {
        "format": format,
        "name": model.name,
        "config": dataclasses.asdict(model.backbone_config),
        "head": dataclasses.asdict(model.head),
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "num_classes": number,
        "class_names": None if names is None else list(names),
        "origin": model.origin,
        "versions": versions(),
    }


def _check(folder, model):
    """The difference of the logits; ExportError if it, or a mask, is not the model's."""
    served = tf.saved_model.load(str(folder)).signatures
    rng = np.random.default_rng(0)
    shape = (2, *model.preprocessing.image_size, 3)
    tensors = rng.uniform(-1, 1, shape).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model.predict_on_batch(tensors))
    found = served["tensors"](tensors=tf.constant(tensors))["logits"].numpy()
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    limit = TOLERANCES.get(model.compute_dtype, TOLERANCES["bfloat16"])
    if not difference <= limit:
        raise ExportError(f"nothing was published: the logits differ by {difference:.1e}")
    encoded, _ = sample_images()
    masks = served["serving_default"](image_bytes=tf.constant(encoded))["masks"].numpy()
    images = [decode_image(image).numpy() for image in encoded]
    if model.compute_dtype == "float32":
        for mask, ours in zip(masks, Segmenter(model, 1).masks(images), strict=True):
            mask = tf.io.decode_png(mask, channels=1).numpy()[..., 0]
            if mask.shape != ours.shape or np.mean(mask != ours) > _TIES:
                raise ExportError("nothing was published: the masks are not the model's")
    return difference


class SavedModelSegmenter:
    """An export of a segmentation model, used as `keras_vit.data.segmenter.Segmenter`.

    Args:
        folder: Of a version.
        description: What its `assets/model.json` says.
    """

    def __init__(self, folder, description):
        self._loaded = tf.saved_model.load(str(folder))  # its functions need it
        self.folder = folder
        self.class_names = description["class_names"]
        self.num_classes = description["num_classes"]
        self.max_pixels = description["max_pixels"]
        self.orientation = description["preprocessing"]["orientation"]

    def masks(self, images, before_batch=None):
        """Yields uint8 (H, W) for each image, uint8 (H, W, 3)."""
        for image in images:
            if before_batch is not None:
                before_batch()
            yield self._loaded.signatures["image"](image=tf.constant(image))["mask"].numpy()
