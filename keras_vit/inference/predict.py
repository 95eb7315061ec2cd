"""Class probabilities of image files, from a Keras model or from an exported SavedModel."""

import concurrent.futures
import itertools
import json
import math
import os

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images.image_problems import (
    MAX_BYTES,
    MAX_FILE_BYTES,
    MAX_FILE_PIXELS,
    MAX_JPEG_PIXELS,
    explain_image_problem,
)
from keras_vit.data.images.try_prepare import try_prepare_image
from keras_vit.files import read_regular
from keras_vit.inference import find
from keras_vit.inference.answers import (
    ImagePredictions,
    Prediction,
    Value,
    choose_activation,
    choose_top_k,
    said,
    task_of_classifier,
)
from keras_vit.inference.identity import model_digest, saved_model_digest
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.task import Task, task_of
from keras_vit.serving.export import FORMAT, MODEL_JSON
from keras_vit.serving.signatures import PROBABILITIES
from keras_vit.serving.versions import latest_version
from keras_vit.untrusted import quoted

__all__ = [
    "ImagePredictions",
    "KerasClassifier",
    "Prediction",
    "SavedModelClassifier",
    "Value",
    "choose_activation",
    "choose_top_k",
    "find_all",
    "find_images",
    "predict",
]

NOT_FINITE = "the model's scores are not finite (NaN or infinity) for this image"
_MAX_DESCRIPTION_BYTES = 64 << 20
_DESCRIBED = {
    *("num_classes", "class_names", "activation", "max_batch_size", "max_pixels"),
    "preprocessing",
}


class KerasClassifier:
    """A Keras model with its preprocessing.

    Args:
        model: `keras.Model` from images to (B, C) logits, one of this package or cut from one.
        preprocessing: `keras_vit.Preprocessing` for a model that does not tell its own.
        max_pixels: the largest height x width that is decoded; None takes 2^28.

    Raises:
        ValueError: for a model without head, or one whose preprocessing is not known.
    """

    activation = None
    max_batch_size = math.inf
    max_bytes = MAX_FILE_BYTES

    def __init__(self, model, preprocessing=None, max_pixels=None):
        if not getattr(getattr(model, "config", None), "num_classes", 1):
            raise ValueError(
                f"`model` must have a head. Received: {model.name!r} with num_classes=0"
            )
        self._model = model = network_of(model)
        self._preprocessing = preprocessing_of(model, preprocessing)
        self.max_pixels = MAX_FILE_PIXELS if max_pixels is None else max_pixels
        if type(self.max_pixels) is not int or not 0 < self.max_pixels <= MAX_JPEG_PIXELS:
            raise ValueError(
                f"`max_pixels` must be an integer in [1, {MAX_JPEG_PIXELS}]. "
                f"Received: {max_pixels!r}"
            )
        self.num_classes = int(model.outputs[0].shape[-1])
        self.class_names = _names(getattr(model, "class_names", None), self.num_classes)
        self.task = task_of(model)

    def prepare(self, encoded):
        """Image bytes -> (what `scores` takes a list of, what is wrong with them or "")."""
        limits = {"max_pixels": self.max_pixels, "max_bytes": self.max_bytes}
        tensor, problem = try_prepare_image(encoded, self._preprocessing, **limits)
        return tensor.numpy(), problem.numpy().decode()

    def digest(self):
        """Hexadecimal digest of weights, configuration, preprocessing, class names and task."""
        return model_digest(self._model, self._preprocessing, self.class_names, self.task)

    def scores(self, prepared):
        """A list of B prepared images -> float32 logits (B, C)."""
        return keras.ops.convert_to_numpy(self._model.predict_on_batch(np.stack(prepared)))


class SavedModelClassifier:
    """A SavedModel that `keras_vit.serving.export.export` wrote.

    Args:
        directory: its folder, or the folder of its versions, of which the highest is taken.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if something else wrote it.
    """

    max_bytes = MAX_BYTES

    def __init__(self, directory):
        folder = latest_version(directory)
        description_file = folder / "assets" / MODEL_JSON
        if not description_file.is_file():
            raise ValueError(
                f"a SavedModel must be an export of keras_vit. Received: {folder}, without "
                f"assets/{MODEL_JSON}"
            )
        description = _read_description(description_file)
        # Its functions work only as long as the loaded object is kept.
        self._loaded = tf.saved_model.load(str(folder))
        self.folder = folder
        self.num_classes = description["num_classes"]
        self.class_names = _names(description["class_names"], self.num_classes)
        self.activation = description["activation"]
        self.task = _read_task(description)
        self.max_batch_size = description["max_batch_size"]
        self.max_pixels = description["max_pixels"]
        self._preprocessing = Preprocessing(**description["preprocessing"])

    def prepare(self, encoded):
        """Image bytes -> (what `scores` takes a list of, what is wrong with them or "")."""
        _, problem = try_prepare_image(encoded, self._preprocessing, self.max_pixels)
        return encoded, problem.numpy().decode()

    def digest(self):
        """Hexadecimal digest of all files of the export."""
        return saved_model_digest(self.folder)

    def predict_on_batch(self, tensors):
        """Preprocessed float32 (B, h, w, 3) -> float32 logits (B, C)."""
        size = self.max_batch_size
        parts = [tf.constant(tensors[i : i + size]) for i in range(0, len(tensors), size)]
        function = self._loaded.signatures["tensors"]
        return np.concatenate([function(tensors=part)["logits"].numpy() for part in parts])

    def scores(self, prepared):
        """A list of B images' bytes -> float32 logits (B, C)."""
        function = self._loaded.signatures["serving_default"]
        return function(image_bytes=tf.constant(prepared))["scores"].numpy()


def find_all(paths):
    """As `find_images`, and the number of files in folders that are no images."""
    files, failures, num_others = find.find_all(paths)
    answers = [ImagePredictions(os.fspath(path), error=error) for path, error in failures]
    return find.Found(files, answers, num_others)


def find_images(paths):
    """Lists the files that paths stand for.

    Args:
        paths: files, and folders that are searched for images.

    Returns:
        `(files, failures)`: a list of `pathlib.Path`, and an `ImagePredictions` with an error for
        each path, and each entry of a folder, where there is nothing to be read.
    """
    return find_all(paths)[:2]


def predict(
    model,
    paths,
    *,
    batch_size=8,
    top_k=None,
    activation=None,
    preprocessing=None,
    max_pixels=None,
):
    """Yields what a model says about each image file.

    Files are read and decoded ahead of the model, one batch at most.  A file that cannot be read or
    decoded costs no other file its prediction.

    Args:
        model: `keras.Model` from images to (B, C) logits, one of this package or cut from one, or a
            `SavedModelClassifier`, or a `KerasClassifier`.
        paths: of image files, and of folders that are searched for images; or one of these.
        batch_size: number of images that go through the model together.
        top_k: number of classes in an answer, at most all of them; None takes 5, and of a model of
            several labels all that reach their thresholds.  A regression gives all values.
        activation: `"softmax"`, `"sigmoid"`, or `"none"` for the model's scores themselves; None
            takes that of the SavedModel, or that of the model's task: softmax, but for a model of
            one output, whose softmax is always 1, the score; sigmoid for several labels.
        preprocessing: `keras_vit.Preprocessing` for a Keras model that does not tell its own.
        max_pixels: the largest height x width that is decoded, of a Keras model; None takes 2^28.

    Returns:
        An iterator of `ImagePredictions`: first the paths where there is nothing to be read, then
        each file in the order of `paths`.  Scores that are not finite are an error of their image.

    Raises:
        ValueError: for a number that is not positive, an unknown activation, or a model without
            head or whose preprocessing is not known.
    """
    classifier = model
    if isinstance(model, keras.Model):
        classifier = KerasClassifier(model, preprocessing, max_pixels)
    elif not hasattr(model, "scores"):
        raise TypeError(
            "`model` must be a keras.Model, a KerasClassifier or a SavedModelClassifier. "
            f"Received: {type(model).__name__}"
        )
    activation = choose_activation(classifier, activation)
    top_k = choose_top_k(classifier, top_k)
    for name, value in (("batch_size", batch_size), ("top_k", top_k)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {value!r}")
    if batch_size > classifier.max_batch_size:
        raise ValueError(
            f"`batch_size` must be at most the export's {classifier.max_batch_size}. Received: "
            f"{batch_size}"
        )
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files, failures = find_images(paths)
    answers = _predict(classifier, files, batch_size, top_k, PROBABILITIES[activation])
    return itertools.chain(failures, answers)


def _predict(classifier, files, batch_size, top_k, activation):
    batch_size = min(batch_size, max(len(files), 1))
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            ahead = _submit(pool, classifier, batches[0]) if batches else []
            for batch, following in itertools.zip_longest(batches, batches[1:], fillvalue=[]):
                read = [future.result() for future in ahead]
                ahead = _submit(pool, classifier, following)
                yield from _answers(classifier, batch, read, batch_size, top_k, activation)
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(pool, classifier, files):
    return [pool.submit(_read, classifier, file) for file in files]


def _read(classifier, file):
    """(prepared image, None) or (None, why there is none)."""
    try:
        num_bytes = os.stat(file).st_size
        limit = classifier.max_bytes
        if num_bytes > limit:
            return None, f"an image may have at most {limit} bytes, it has {num_bytes}"
        encoded = read_regular(file, limit)
    except OSError as error:
        return None, find.explain(error)
    prepared, problem = classifier.prepare(encoded)
    if problem:
        # It sees less than a decoder, and says it better.
        limits = {"max_pixels": classifier.max_pixels, "max_bytes": classifier.max_bytes}
        explained = explain_image_problem(encoded, **limits)
        return None, explained or problem
    return prepared, None


def _answers(classifier, files, read, batch_size, top_k, activation):
    good = [prepared for prepared, error in read if error is None]
    rows = iter(())
    if good:
        # Always whole batches, so that the model is compiled once.
        padded = good + [good[0]] * (batch_size - len(good))
        scores = classifier.scores(padded)[: len(good)]  # (B, C)
        finite = np.isfinite(scores).all(axis=-1)  # (B,)
        scores = scores / np.float32(task_of_classifier(classifier).temperature or 1.0)
        rows = iter(zip(activation(scores).numpy(), finite, strict=True))
    for file, (_, error) in zip(files, read, strict=True):
        if error is not None:
            yield ImagePredictions(os.fspath(file), error=error)
            continue
        probabilities, is_finite = next(rows)
        if not is_finite:
            yield ImagePredictions(os.fspath(file), error=NOT_FINITE)
            continue
        yield ImagePredictions(os.fspath(file), said(classifier, probabilities, top_k))


def _names(class_names, num_classes):
    return list(class_names) if class_names else [str(i) for i in range(num_classes)]


def _read_task(description):
    """The `Task` of an export; of one without, classification."""
    fields = description.get("task") or {}
    if not isinstance(fields, dict):
        raise ValueError(f"`task` of an export must be an object. Received: {quoted(fields)}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Task(**fields).checked(description["num_classes"])


def _read_description(path):
    """What `keras_vit.serving.export` wrote beside the graph; ValueError for anything else."""
    try:
        description = json.loads(read_regular(path, _MAX_DESCRIPTION_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the description of a SavedModel must be JSON. Received: {path}, which is damaged; "
            "export the model again"
        ) from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"a SavedModel must have the format {FORMAT!r}. Received: {quoted(found)} in {path}"
        )
    missing = sorted(_DESCRIBED - set(description))
    if missing:
        raise ValueError(f"{path} must tell {', '.join(missing)}; export the model again")
    return description
