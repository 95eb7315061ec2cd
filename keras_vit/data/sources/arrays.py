"""A split of NumPy arrays."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_vit.data.sources import list_targets
from keras_vit.data.sources.protocol import digest, keep
from keras_vit.data.tasks import CLASSIFICATION, REGRESSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """One split in memory.

    Args:
        images: uint8 (n, H, W, C) in [0, 255], or float32 as the model takes them.
        labels: int64 (n,), or float32 (n, C).
        weights: float32 (n,), or None.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None

    resumption_problem = None

    def __len__(self):
        return len(self.images)

    @property
    def image_dtype(self):
        """The type of the pixels."""
        return self.images.dtype.name

    @property
    def label_shape(self):
        """The shape of one label: () for a class, (C,) for shares or values."""
        return self.labels.shape[1:]

    @property
    def image_shape(self):
        """(H, W, C)."""
        return self.images.shape[1:]

    @property
    def parts(self):
        """The arrays that are there."""
        parts = (self.images, self.labels, self.weights)
        return tuple(part for part in parts if part is not None)

    def stream(self):
        """Returns a `tf.data.Dataset` of the examples."""
        return tf.data.Dataset.from_tensor_slices(self.parts)

    def without(self, excluded):
        """Returns the split without some examples."""
        is_kept = keep(len(self), excluded)
        return Arrays(**{
            field.name: None if (part := getattr(self, field.name)) is None else part[is_kept]
            for field in dataclasses.fields(self)
        })  # fmt: skip

    def fingerprint(self):
        """Returns a digest of all values."""
        parts = [np.ascontiguousarray(part) for part in self.parts]
        return digest(*((p.shape, p.dtype.str, digest(p.tobytes())) for p in parts))


def _as_images(images, split):
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "Images must be an array (n, H, W, C) with at least one. Received: shape "
            f"{images.shape} for {split!r}"
        )
    if images.dtype == np.uint8:
        return images
    if np.issubdtype(images.dtype, np.floating):
        return images.astype(np.float32, copy=False)
    low, high = (images.min(), images.max()) if images.dtype.kind in "iu" else (0, 256)
    if low < 0 or high > 255:
        raise ValueError(
            "Images must be whole numbers in [0, 255], or floats as the model takes them. "
            f"Received: {images.dtype} from {low} to {high} for {split!r}; scale them first."
        )
    return images.astype(np.uint8)


def _as_labels(labels, num_images, split):
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(labels) != num_images:
        raise ValueError(
            f"There must be as many labels as images, {num_images}. Received: {len(labels)} for "
            f"{split!r}"
        )
    if labels.ndim == 2:
        return labels.astype(np.float32)
    is_whole = labels.dtype.kind in "iu" or (
        labels.dtype.kind == "f" and np.array_equal(labels, np.floor(labels))
    )
    if labels.ndim != 1 or not (is_whole or labels.dtype.kind in "UO"):
        raise ValueError(
            "Labels must be integers (n,), class names (n,), or each class's share (n, C). "
            f"Received: {labels.dtype} {labels.shape} for {split!r}"
        )
    return labels.astype(np.int64) if is_whole else labels.astype(str)


def read_arrays(parts, split, task=CLASSIFICATION):
    """Checks (images, labels) or (images, labels, weights), and returns `Arrays`.

    Labels that are names stay names; those of `REGRESSION` are values, (n,) or (n, K).

    Raises:
        ValueError: for other shapes or types.
    """
    images = _as_images(parts[0], split)
    read = list_targets.as_values if task == REGRESSION else _as_labels
    labels = read(parts[1], len(images), split)
    weights = None
    if len(parts) == 3 and parts[2] is not None:
        weights = np.asarray(parts[2], np.float32)
        if weights.shape != (len(images),):
            raise ValueError(
                f"There must be one weight for each image, {len(images)}. Received: shape "
                f"{weights.shape} for {split!r}"
            )
    return Arrays(images=images, labels=labels, weights=weights)
