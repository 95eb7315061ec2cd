"""The embedded data set: scikit-learn's 1,797 handwritten digits as a TFDS builder.

The images ship inside scikit-learn, so that nothing is downloaded.  Importing this module registers
the builder: `tfds.load("digits/upstream")` works afterwards.
"""

import hashlib

import numpy as np
import tensorflow_datasets as tfds

SPLITS = ("train", "validation", "test")
# Per cent of each class; the rest is the test split.
_TRAIN_PERCENT = 60
_VALIDATION_PERCENT = 20
# The configs, by name: the digits that they hold, whose labels count from 0.
CONFIG_DIGITS = {"all": range(10), "upstream": range(5), "downstream": range(5, 10)}

_DESCRIPTION = """
1,797 images of handwritten digits, 8x8 pixels in 17 grey levels: the test part of the UCI data set
"Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits` carries it.  The
configs `upstream` (0-4) and `downstream` (5-9) share no class, for transfer experiments.
"""
_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""


def _load():
    """Returns images (1797, 8, 8, 1) uint8 in [0, 255] and digits (1797,) int64."""
    from sklearn import datasets  # 1 s to import, and needed only to prepare

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., np.newaxis], digits.target


def split_indices(targets):
    """Splits each class 60/20/20 in an order that depends on nothing but the indices.

    Within a class the indices are ordered by the SHA-256 of their decimal text, which no version of
    a random generator can change.

    Args:
        targets: integer array (n,), the class of each example.

    Returns:
        A dict from split name to a sorted int64 array of indices; the splits are disjoint and cover
        everything.
    """
    parts = {split: [] for split in SPLITS}
    for target in np.unique(targets):
        indices = sorted(
            np.flatnonzero(targets == target).tolist(),
            key=lambda index: hashlib.sha256(str(index).encode()).digest(),
        )
        train_end = len(indices) * _TRAIN_PERCENT // 100
        validation_end = len(indices) * (_TRAIN_PERCENT + _VALIDATION_PERCENT) // 100
        parts["train"] += indices[:train_end]
        parts["validation"] += indices[train_end:validation_end]
        parts["test"] += indices[validation_end:]
    return {split: np.sort(np.array(indices, np.int64)) for split, indices in parts.items()}


class Digits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `digits`, with the configs `all`, `upstream` (0-4) and `downstream` (5-9).

    Features: `image` (8, 8, 1) uint8 in [0, 255], the 17 grey levels spread evenly, and `label`, a
    `ClassLabel` whose names are the digits.  The splits of the two small configs are those of
    `all`, restricted to their classes.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name=name, description=f"The digits {digits.start}-{digits.stop - 1}."
        )
        for name, digits in CONFIG_DIGITS.items()
    ]

    def _info(self):
        names = [str(digit) for digit in CONFIG_DIGITS[self.builder_config.name]]
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=names),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        images, targets = _load()
        return {
            split: self._generate_examples(images, targets, indices)
            for split, indices in split_indices(targets).items()
        }

    def _generate_examples(self, images, targets, indices):
        digits = CONFIG_DIGITS[self.builder_config.name]
        for index in indices.tolist():
            if targets[index] in digits:
                yield index, {"image": images[index], "label": str(targets[index])}
