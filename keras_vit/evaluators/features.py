"""Features of a split: computed once, kept on disk, and gone on with where they were stopped.

A feature is what a layer before the head gives for one image, a vector.  What is kept lies in a
folder whose name is a digest of everything that decides it (weights, layer, preprocessing,
examples, precision), so that no evaluation reads another model's numbers.

Legend: `B` batch, `N` images, `T` tokens, `D` hidden, `F` features.
"""

import contextlib
import dataclasses
import os

import keras
import numpy as np

from keras_vit.evaluators import feature_store
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.progress import image_progress

DTYPES = ("float32", "float16")
_SAVE_EVERY = 16  # batches


def _pre_logits(model):
    heads = [layer for layer in model.layers if layer.name == "head"]
    if heads:
        return heads[0].input
    if getattr(getattr(model, "config", None), "num_classes", None) != 0:
        raise ValueError(
            "'pre_logits' needs a model with a layer 'head', whose input they are. Received: a "
            f"{type(model).__name__} that ends in {model.layers[-1].name!r}; if its output is the "
            "features, take 'output'"
        )
    return model.output


def _output(model):
    return model.output


def _normed(model, tokens=None):
    """The tokens after the final norm, (B, T, D); of the last block unless others are given."""
    norm = _layer(model, "encoder_norm")
    return norm.output if tokens is None else norm(tokens)


def _class_token(model):
    _need_class_token(model)
    return _normed(model)[:, 0]


def _patch_mean(model):
    tokens = _normed(model)
    return keras.ops.mean(tokens[:, int(_has_class_token(model)) :], axis=1)


def _class_token_and_patch_mean(model):
    return keras.ops.concatenate([_class_token(model), _patch_mean(model)], axis=-1)


def _class_token_of_last_4(model):
    _need_class_token(model)
    names = [layer.name for layer in model.layers if layer.name.startswith("encoderblock_")]
    if len(names) < 4:
        raise ValueError(
            "'class_token_of_last_4' needs a model of at least 4 encoder blocks. Received: "
            f"{len(names)}"
        )
    tokens = [_normed(model, model.get_layer(name).output)[:, 0] for name in names[-4:]]
    return keras.ops.concatenate(tokens, axis=-1)


def _has_class_token(model):
    return any(layer.name == "cls" for layer in model.layers)


def _need_class_token(model):
    if not _has_class_token(model):
        raise ValueError(
            "this representation needs a model with a class token. Received: one without; take "
            "'pre_logits' or 'patch_mean'"
        )


def _layer(model, name):
    if all(layer.name != name for layer in model.layers):
        raise ValueError(
            f"this representation needs a Vision Transformer with a layer {name!r}. Received: "
            f"{type(model).__name__}; take 'pre_logits'"
        )
    return model.get_layer(name)


# Name -> from a functional model to its symbolic (B, F).
REPRESENTATIONS = {
    # What the head reads: big_vision's few-shot evaluation.
    "pre_logits": _pre_logits,
    # What a model without a head gives.
    "output": _output,
    # After the final norm.  DINO's kNN, and MAE's linear probe without `global_pool`.
    "class_token": _class_token,
    "patch_mean": _patch_mean,
    # DINO's linear probe of ViT-B, and of ViT-S.
    "class_token_and_patch_mean": _class_token_and_patch_mean,
    "class_token_of_last_4": _class_token_of_last_4,
}


def _model_pixels(preprocessing):
    return preprocessing, False


def _big_vision_pixels(preprocessing):
    return _with_margin(preprocessing, resize="squash"), True


def _dino_pixels(preprocessing):
    rule = {"resize": "short_side", "interpolation": "bicubic", "antialias": True}
    return _with_margin(preprocessing, **rule), False


def _with_margin(preprocessing, **rule):
    """Resizes to 256 for a central crop of 224, and in proportion for other sizes."""
    resize_to = tuple(round(side * 256 / 224) for side in preprocessing.image_size)
    rule = {"interpolation": "bilinear", "antialias": False, **rule}
    return dataclasses.replace(preprocessing, resize_to=resize_to, **rule)


# Name -> from the model's own to (`Preprocessing`, whether pixels are cut to whole numbers).
PREPROCESSINGS = {
    "model": _model_pixels,
    # `resize(256) | central_crop(224)`, which squashes and goes back to uint8.
    "big_vision": _big_vision_pixels,
    # torchvision's `Resize(256, BICUBIC)`, `CenterCrop(224)`.
    "dino": _dino_pixels,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are computed and kept.

    Args:
        representation: a name in `REPRESENTATIONS`.
        preprocessing: a name in `PREPROCESSINGS`, or a `Preprocessing`.
        batch_size: images in one call of the model.
        dtype: in which the features are kept, "float32" or "float16".
        cache_dir: the folder that they are kept in; None keeps none, as fits a model that changes.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: for an unknown name.
    """

    representation: str = "pre_logits"
    preprocessing: str | Preprocessing = "model"
    batch_size: int = 64
    dtype: str = "float32"
    cache_dir: str | os.PathLike | None = None
    progress: bool = False

    def __post_init__(self):
        known = {"representation": REPRESENTATIONS, "dtype": DTYPES}
        if not isinstance(self.preprocessing, Preprocessing):
            known["preprocessing"] = PREPROCESSINGS
        for field, names in known.items():
            if getattr(self, field) not in names:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(names)}. Received: "
                    f"{getattr(self, field)!r}"
                )


def feature_model(model, representation="pre_logits"):
    """The part of a model that ends with its features; it shares the weights.

    Args:
        model: functional `keras.Model` of one input.
        representation: a name in `REPRESENTATIONS`.

    Returns:
        A `keras.Model` from images to (B, F).

    Raises:
        ValueError: for a model that has no such features.
    """
    try:
        images = model.input
    except (AttributeError, ValueError) as error:
        raise ValueError(
            "features need a functional model, whose layers have symbolic outputs. Received: "
            f"{type(model).__name__}"
        ) from error
    output = REPRESENTATIONS[representation](model)
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(
            f"features must be one vector for each image, (B, F). Received: {representation!r} of "
            f"the model is {shape}"
        )
    return keras.Model(images, output, name="features")


class FeatureReader:
    """The features and labels of the splits of one data set.

    Args:
        dataset: a name or folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`.
        options: `FeatureOptions`.
        data_dir, download: as in `keras_vit.data.pipeline.resolve`.
    """

    def __init__(self, dataset, options=None, *, data_dir=None, download=False):
        self.dataset = dataset
        self.options = options or FeatureOptions()
        self.where = {"data_dir": data_dir, "download": download}
        self._info = None
        self._features_of = (None, None)

    @property
    def dataset_name(self):
        """The data set's name."""
        return str(getattr(self.dataset, "name", self.dataset))

    @property
    def info(self):
        """The `DatasetInfo`, found when it is first needed."""
        if self._info is None:
            from keras_vit.data import pipeline  # TensorFlow, needed on every backend from here on

            is_info = isinstance(self.dataset, pipeline.DatasetInfo)
            self._info = self.dataset if is_info else pipeline.resolve(self.dataset, **self.where)
        return self._info

    def labels(self, split):
        """The labels of a split, int64 (N,), without reading its images.

        Raises:
            ValueError: for a split that is not there, or whose images have several labels.
        """
        self.info.num_examples(split)
        labels = np.asarray(self.info.source.labels(split))
        return _single_labels(labels, self.info.name, split)

    def read(self, model, split):
        """Computes the features of a split, or reads them where they are kept.

        Args:
            model: as `feature_model` takes it, with `preprocessing`.
            split: the split's name.

        Returns:
            `(features, labels)`: (N, F) in the kept precision, and int64 (N,), in the order of the
            split.

        Raises:
            ValueError: for a model without features, a split that is not there, or features that
                are not finite.
        """
        if self._features_of[0] is not model:
            self._features_of = (model, feature_model(model, self.options.representation))
        features_of = self._features_of[1]
        num_images = self.info.num_examples(split)
        preprocessing, is_cut = self._pixels(model, split)
        shape = (num_images, features_of.output_shape[-1])
        if self.options.cache_dir is None:
            features = np.empty(shape, self.options.dtype)
            labels = np.empty(num_images, np.int64)
            for done, _ in self._compute(features_of, split, preprocessing, is_cut, 0):
                start, values, batch_labels = done
                features[start : start + len(values)] = values
                labels[start : start + len(values)] = batch_labels
            return features, labels
        described = {
            "features": shape[1],
            "weights": feature_store.weights_digest(features_of),
            "representation": self.options.representation,
            "preprocessing": [dataclasses.asdict(preprocessing), is_cut],
            "dataset": [
                self.info.name,
                split,
                num_images,
                self.info.fingerprint([split]),
            ],
            "dtype": self.options.dtype,
        }
        with feature_store.open_folder(
            self.options.cache_dir, self.info.name, split, described, shape, self.options.dtype
        ) as kept:
            if kept.num_done < num_images:
                parts = self._compute(features_of, split, preprocessing, is_cut, kept.num_done)
                kept.extend(parts)
            return kept.read()

    def _pixels(self, model, split):
        """(`Preprocessing`, whether pixels are cut to whole numbers)."""
        if self.info.source.image_dtype(split) == "float32":
            # What a user made ready for the model goes into it as it is.
            return Preprocessing(image_size=model.input_shape[1:3]), False
        rule = self.options.preprocessing
        own = getattr(model, "preprocessing", None)
        if isinstance(rule, Preprocessing):
            return rule, False
        if own is None:
            raise ValueError(
                "the features of a model without `preprocessing` need one. Received: "
                f"{rule!r}; pass a `Preprocessing`"
            )
        return PREPROCESSINGS[rule](own)

    def _compute(self, features_of, split, preprocessing, is_cut, num_done):
        """Yields ((start, features (n, F), labels (n,)), whether it is time to save)."""
        from keras_vit.data import pipeline
        from keras_vit.data.images.preprocess import scale_pixels

        size = self.options.batch_size
        num_images = self.info.num_examples(split)
        whole = (
            dataclasses.replace(preprocessing, value_range=(0, 255), mean=None, std=None)
            if is_cut
            else preprocessing
        )
        batches = pipeline.evaluation_dataset(self.info, split, whole, batch_size=size)
        first = num_done // size
        shown = image_progress if self.options.progress else _no_progress
        with shown(num_images, f"features of {self.info.name} {split}") as advance:
            advance(first * size)
            for i, (images, labels, mask) in enumerate(
                batches.skip(first).as_numpy_iterator(), start=first
            ):
                if is_cut:
                    # A thousandth of a level more than the rounding of what was whole already.
                    images = np.floor(images + 1e-3)
                    images = scale_pixels(
                        images, preprocessing.value_range, preprocessing.mean, preprocessing.std
                    ).numpy()
                values = np.asarray(
                    keras.ops.convert_to_numpy(features_of.predict_on_batch(images)), np.float32
                )[mask > 0]
                labels = _single_labels(labels[mask > 0], self.info.name, split)
                with np.errstate(over="ignore"):  # what float16 cannot hold is said below
                    values = values.astype(self.options.dtype)
                if not np.isfinite(values).all():
                    raise ValueError(
                        f"features must be finite in {self.options.dtype}. Received: others for "
                        f"images from number {i * size} of {self.info.name!r} {split!r}; keep them "
                        "in float32, or look at the model"
                    )
                advance(len(values))
                yield (i * size, values, labels), (i + 1) % _SAVE_EVERY == 0


@contextlib.contextmanager
def _no_progress(total, title):
    del total, title
    yield lambda number=1: None


def _single_labels(labels, name, split):
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "this evaluation needs one class for each image. Received: labels of the shape "
            f"{labels.shape} and type {labels.dtype} in {split!r} of {name!r}"
        )
    return labels.astype(np.int64)


class FeatureEvaluator:
    """What the evaluators on features share: a name, and the data set that they read.

    Args:
        kind: What is measured, the first part of the name.
        dataset: As `FeatureReader` takes it; None is the data set of the training that the
            evaluator is given to.
        options: `FeatureOptions`.
        name: Name of the evaluator; None takes the kind and the data set's name.
        data_dir, download: as in `keras_vit.data.pipeline.resolve`.
    """

    def __init__(self, kind, dataset, options, name, data_dir, download):
        self.data = FeatureReader(dataset, options, data_dir=data_dir, download=download)
        self.name = name or (kind if dataset is None else f"{kind}/{self.data.dataset_name}")

    @property
    def dataset(self):
        """The data set as it was given."""
        return self.data.dataset

    @dataset.setter
    def dataset(self, dataset):
        # A reader of its own: copies of an evaluator share the one they were copied with.
        self.data = FeatureReader(dataset, self.data.options, **self.data.where)
