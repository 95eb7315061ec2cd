"""Where examples come from: the one protocol that pipelines, trainings and evaluations read.

A data set is a `DatasetInfo` (name, class names, sizes of the splits) around a `Source`:

| source | made by `pipeline.resolve` from | order in training | exact resumption |
|---|---|---|---|
| `FileSource` | a folder, a CSV or JSONL list | shuffled by (seed, epoch) | at once |
| `TfdsSource` | a name | shuffled by (seed, epoch) | at once; above 1 GiB reads and drops |
| `ArraySource` | NumPy arrays (x, y) | shuffled by (seed, epoch) | at once |
| `DatasetSource` | a `tf.data.Dataset`, a `keras.utils.PyDataset` | its own | reads and drops |

The contract, for those who train and evaluate:

- `info.source.image_dtype(split)` says what an example's image is: encoded (string) and decoded by
  us, pixels in [0, 255] (uint8), or *ready* (float): then it goes into the model as it is, without
  preprocessing and without augmentation of single images.
- `info.fingerprint(splits)` changes with anything that the splits are read from; a state that is
  resumed must have been made with the same one.
- `info.source.resumption_problem(split)` is None, or one sentence that says why a training on this
  split cannot be resumed exactly.  It may be trained on all the same.
- Labels are int32 scalars (classes); or float32 (C,), each class's share or presence, where the
  user's are.  With weights, `training_dataset` gives (images, labels, weights).
- `training_dataset` and `evaluation_dataset` do the rest, the same for every source.

A source of one's own has the same shape: subclass `Source` or write the same methods.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Source(Protocol):
    """Examples by split, each an image and a label, in an order that does not change.

    The methods with a body are defaults for a source that subclasses this one.
    """

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split."""

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels: int (n,), int (n, K) padded with -1, or float (n, C)."""

    def stream(self, split: str):
        """Returns a finite `tf.data.Dataset` of (image, label) or (image, label, weight), in order.

        An image is a scalar string (encoded), uint8 (H, W, C) in [0, 255], or float (h, w, C) as
        the model takes it.
        """

    def image_dtype(self, split: str) -> str:
        """Returns "string", "uint8" or "float32", see the module."""

    def without(self, excluded: Mapping[str, Sequence[int]]) -> "Source":
        """Returns the source without the examples at these places of the splits."""

    def fingerprint(self, split: str) -> str:
        """Returns a hexadecimal digest that changes with whatever the split is read from."""

    def paths(self, split: str) -> tuple[str, ...] | None:
        """Returns the paths of the encoded images, which may be read in any order, or None."""
        return None

    def arrays(self, split: str) -> tuple[np.ndarray, ...] | None:
        """Returns (images, labels[, weights]) where they are in memory already, or None."""
        return None

    def num_bytes(self, split: str) -> int | None:
        """Returns what the stream takes in memory; None for what must be read as a stream."""
        return None

    @property
    def image_shape(self) -> tuple[int | None, ...] | None:
        """(H, W, C) of every image in pixels; None where they differ or it is not known."""
        return None

    @property
    def takes_slices(self) -> bool:
        """Whether "train[:90%]" is a split too."""
        return False

    def resumption_problem(self, split: str) -> str | None:
        """Returns why a training on the split cannot be resumed exactly, or None."""
        return None

    def find_damage(self, split: str) -> list[str]:
        """Returns a sentence for each place that is damaged, after reading failed."""
        return []


def digest(*parts):
    """Returns the SHA-256 of the representations of some values, hexadecimal."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(repr(part).encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def keep(size, excluded):
    """Returns bool (size,), False at the places that are excluded.

    >>> keep(3, [1]).tolist()
    [True, False, True]
    """
    is_kept = np.ones(size, bool)
    is_kept[list(excluded)] = False
    return is_kept
