"""Class probabilities of image files, from a Keras model or from an exported SavedModel."""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.decode import MAX_BYTES, MAX_PIXELS, explain_image_problem
from keras_vit.data.folders import image_files
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.serving.export import FORMAT, MODEL_JSON
from keras_vit.serving.images import try_prepare_image
from keras_vit.serving.options import ACTIVATIONS
from keras_vit.serving.signatures import PROBABILITIES
from keras_vit.serving.versions import latest_version


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of an answer.

    Args:
        class_id: index of the logit.
        class_name: the model's name for it, or the index as text.
        probability: in [0, 1].
    """

    class_id: int
    class_name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class ImagePredictions:
    """What is said about one path.

    Args:
        path: of the image file.
        predictions: the best classes, most probable first; empty if there is an error.
        error: why there are none, or None.
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


class KerasClassifier:
    """A Keras model with the preprocessing that it carries.

    Args:
        model: `keras.Model` from images to (B, C) logits, with `preprocessing` and `class_names`.
    """

    activation = "softmax"
    max_batch_size = math.inf
    max_pixels = MAX_PIXELS

    def __init__(self, model):
        if not getattr(getattr(model, "config", None), "num_classes", 1):
            raise ValueError(
                f"`model` must have a head. Received: {model.name!r} with num_classes=0"
            )
        self._model = model
        self.num_classes = int(model.outputs[0].shape[-1])
        self.class_names = _names(model.class_names, self.num_classes)

    def prepare(self, encoded):
        """Image bytes -> (what `scores` takes a list of, what is wrong with them or "")."""
        tensor, problem = try_prepare_image(encoded, self._model.preprocessing)
        return tensor.numpy(), problem.numpy().decode()

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

    def __init__(self, directory):
        folder = latest_version(directory)
        description_file = folder / "assets" / MODEL_JSON
        if not description_file.is_file():
            raise ValueError(
                f"a SavedModel must be an export of keras_vit. Received: {folder}, without "
                f"assets/{MODEL_JSON}"
            )
        description = json.loads(description_file.read_text(encoding="utf-8"))
        if description.get("format") != FORMAT:
            raise ValueError(
                f"a SavedModel must have the format {FORMAT!r}. Received: "
                f"{description.get('format')!r} in {description_file}"
            )
        # Its functions work only as long as the loaded object is kept.
        self._loaded = tf.saved_model.load(str(folder))
        self.folder = folder
        self.num_classes = description["num_classes"]
        self.class_names = _names(description["class_names"], self.num_classes)
        self.activation = description["activation"]
        self.max_batch_size = description["max_batch_size"]
        self.max_pixels = description["max_pixels"]
        self._preprocessing = Preprocessing(**description["preprocessing"])

    def prepare(self, encoded):
        """Image bytes -> (what `scores` takes a list of, what is wrong with them or "")."""
        _, problem = try_prepare_image(encoded, self._preprocessing, self.max_pixels)
        return encoded, problem.numpy().decode()

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


def find_images(paths):
    """Lists the files that paths stand for.

    Args:
        paths: files, and folders that are searched for images.

    Returns:
        `(files, failures)`: a list of `pathlib.Path`, and an `ImagePredictions` with an error for
        each of the paths where there is nothing to be read.
    """
    files, failures = [], []
    for path in paths:
        try:
            files += image_files([path])
        except (OSError, ValueError) as error:
            failures.append(_failure(path, error))
    return files, failures


def predict(model, paths, *, batch_size=8, top_k=5, activation=None):
    """Yields what a model says about each image file.

    Files are read and decoded ahead of the model, one batch at most.  A file that cannot be read or
    decoded costs no other file its prediction.

    Args:
        model: `keras.Model` from images to (B, C) logits with `preprocessing` and `class_names`, or
            a `SavedModelClassifier`, or a `KerasClassifier`.
        paths: of image files, and of folders that are searched for images.
        batch_size: number of images that go through the model together.
        top_k: number of classes in an answer, at most all of them.
        activation: `"softmax"` or `"sigmoid"`; None takes that of the SavedModel, or softmax.

    Returns:
        An iterator of `ImagePredictions`: first the paths where there is nothing to be read, then
        each file in the order of `paths`.

    Raises:
        ValueError: for a number that is not positive, an unknown activation, or a model without
            head.
    """
    classifier = KerasClassifier(model) if isinstance(model, keras.Model) else model
    activation = classifier.activation if activation is None else activation
    for name, value in (("batch_size", batch_size), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {value}")
    if batch_size > classifier.max_batch_size:
        raise ValueError(
            f"`batch_size` must be at most the export's {classifier.max_batch_size}. Received: "
            f"{batch_size}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {ACTIVATIONS}. Received: {activation!r}")
    files, failures = find_images(paths)
    answers = _predict(classifier, files, batch_size, top_k, PROBABILITIES[activation])
    return itertools.chain(failures, answers)


def _predict(classifier, files, batch_size, top_k, activation):
    batch_size = min(batch_size, max(len(files), 1))
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            ahead = _submit(pool, classifier, batches[0]) if batches else []
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
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
        if num_bytes > MAX_BYTES:
            return None, f"an image may have at most {MAX_BYTES} bytes, it has {num_bytes}"
        encoded = pathlib.Path(file).read_bytes()
    except OSError as error:
        return None, _reason(error)
    prepared, problem = classifier.prepare(encoded)
    if problem:
        # It sees less than a decoder, and says it better.
        explained = explain_image_problem(encoded, max_pixels=classifier.max_pixels)
        return None, explained or problem
    return prepared, None


def _answers(classifier, files, read, batch_size, top_k, activation):
    good = [prepared for prepared, error in read if error is None]
    rows = iter(())
    if good:
        # Always whole batches, so that the model is compiled once.
        padded = good + [good[0]] * (batch_size - len(good))
        scores = classifier.scores(padded)[: len(good)]  # (B, C)
        rows = iter(activation(scores).numpy())
    for file, (_, error) in zip(files, read, strict=True):
        if error is not None:
            yield ImagePredictions(os.fspath(file), error=error)
            continue
        probabilities = next(rows)
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        yield ImagePredictions(
            os.fspath(file),
            tuple(
                Prediction(int(i), classifier.class_names[i], float(probabilities[i])) for i in best
            ),
        )


def _names(class_names, num_classes):
    return list(class_names) if class_names else [str(i) for i in range(num_classes)]


def _failure(path, error):
    return ImagePredictions(os.fspath(path), error=_reason(error))


def _reason(error):
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return getattr(error, "strerror", None) or str(error)
