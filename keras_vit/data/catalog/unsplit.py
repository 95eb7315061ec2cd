"""A split of pictures that have none: by their contents, so that it is the same each time.

A picture's place is a number in [0, 1) made of its content's digest.  It depends on no name, no
order and no other picture, but for near-duplicates, which are on one side all together.
"""

import csv
import dataclasses
import pathlib

import numpy as np

from keras_vit.data.catalog.folders import FolderSplit
from keras_vit.data.splits import TEST, TRAIN, VALIDATION
from keras_vit.data.survey import groups_of, survey
from keras_vit.files import write_whole

# Shares of the test and the validation split.
TEST_SHARE = VALIDATION_SHARE = 0.1
BY_CONTENT = "by content"
SPLIT_FILE = "split.csv"


def place(digest):
    """The number in [0, 1) of a hexadecimal digest.

    >>> place("80" + 62 * "0")
    0.5
    """
    return int(digest[:8], 16) / 2**32


def split_by_content(paths, labels, *, progress=None):
    """Splits pictures into training, validation and test, about 80, 10 and 10 percent.

    A class of which all would be held out keeps its pictures for training.

    Args:
        paths: Paths of n pictures.
        labels: Their classes, n integers.
        progress: A function that is called after each picture, or None.

    Returns:
        A dict from the split's name to `FolderSplit`; a split that is empty is left out.
    """
    pictures = survey(paths, progress=progress)
    groups = groups_of(pictures)
    places = {}
    for picture, number in zip(pictures, groups, strict=True):
        places[number] = min(places.get(number, 1.0), place(picture.digest))
    found = np.array([_split_of(places[number]) for number in groups], object)
    labels = np.asarray(labels)
    for label in np.unique(labels):
        if not np.any(found[labels == label] == TRAIN):
            found[np.isin(groups, groups[labels == label])] = TRAIN
    splits = {}
    for split in (TRAIN, VALIDATION, TEST):
        chosen = np.flatnonzero(found == split)
        if len(chosen):
            splits[split] = FolderSplit(
                tuple(paths[i] for i in chosen), tuple(int(labels[i]) for i in chosen)
            )
    return splits


def _split_of(number):
    if number < TEST_SHARE:
        return TEST
    return VALIDATION if number < TEST_SHARE + VALIDATION_SHARE else TRAIN


def write_split(folder, info):
    """Writes which picture is in which split, `split.csv`, where we made the split.

    Args:
        folder: Folder of the file.
        info: `DatasetInfo`.

    Returns:
        Path of the file, or None.
    """
    if getattr(info.source, "rule", None) != BY_CONTENT:
        return None
    path = pathlib.Path(folder) / SPLIT_FILE
    lines = _Lines()
    writer = csv.writer(lines)
    writer.writerow(["path", "label", "split"])
    for split, files in info.source.splits.items():
        for file, label in zip(files.paths, files.labels, strict=True):
            writer.writerow([file, info.class_names[label], split])
    write_whole(path, "".join(lines.texts).encode("utf-8", "surrogateescape"))
    return path


@dataclasses.dataclass
class _Lines:
    """What `csv.writer` writes into."""

    texts: list = dataclasses.field(default_factory=list)

    def write(self, text):
        self.texts.append(text)
