"""Data sets for trainings that need no classes."""

import os
from collections.abc import Mapping

import numpy as np
from absl import logging

from keras_vit.data.catalog import folders, unsplit
from keras_vit.data.catalog.resolve import DatasetInfo, resolve
from keras_vit.data.sources.files import FileSource
from keras_vit.errors import DataLayoutError

# The one class of images without classes.
UNLABELLED = "unlabelled"


def resolve_images(dataset, **where):
    """As `resolve`, for a training that needs no classes.

    Args:
        dataset: What `resolve` takes; also a folder of images in any layout
            (`folders.read_images`), and images (n, H, W, C) without labels, or a dict of splits to
            such.
        **where: Other arguments of `resolve`.

    Returns:
        A `DatasetInfo`, with one class where there are no labels.

    Raises:
        ValueError, FileNotFoundError: As `resolve`.
    """
    if isinstance(dataset, np.ndarray):
        dataset = {"train": dataset}
    if isinstance(dataset, Mapping):
        dataset = {
            split: (data, np.zeros(len(data), np.int64)) if isinstance(data, np.ndarray) else data
            for split, data in dataset.items()
        }
    try:
        info = resolve(dataset, **where)
        # No image of a folder without splits is kept back where nothing is measured on it.
        if getattr(info.source, "rule", "") != unsplit.BY_CONTENT:
            return info
    except DataLayoutError as error:
        logging.info("%s is taken as images without classes: %s", dataset, error)
    splits = folders.read_images(dataset)
    return DatasetInfo(
        name=os.fspath(dataset),
        class_names=(UNLABELLED,),
        split_sizes={split: len(files.paths) for split, files in splits.items()},
        source=FileSource(splits=splits),
    )
