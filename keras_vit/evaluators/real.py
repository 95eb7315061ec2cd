"""ReaL accuracy on ImageNet: right is any of the labels that people found in an image.

"Are we done with ImageNet?" (arXiv:2006.07159): of the 50,000 validation images 3,163 have no label
any more and are not counted.  The labels are those of TFDS's `imagenet2012_real`, or the official
file `real.json`, one list of classes for each validation image in the order of the file names.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from keras_vit.data.catalog import rows as table


def any_label(predictions, labels):
    """Whether one of each image's predictions is one of its labels.

    Args:
        predictions: integers (N, P), classes.
        labels: integers (N, K), each row the labels of an image, filled up with -1.

    Returns:
        bool (N,).
    """
    return (predictions[:, :, np.newaxis] == labels[:, np.newaxis]).any(axis=(1, 2))


def real_accuracy(predictions, labels):
    """Share of the images that have a label of which the predicted class is one.

    Args:
        predictions: integers (N,), the predicted classes.
        labels: integers (N, K), each row the labels of an image, filled up with -1.

    Returns:
        `(accuracy, count)`: a float, nan if no image has a label, and the number of images that do.

    >>> real_accuracy(np.array([7, 7, 7]), np.array([[3, 7], [3, -1], [-1, -1]]))
    (0.5, 2)
    """
    count = int((labels >= 0).any(axis=-1).sum())
    num_right = int(any_label(predictions[:, np.newaxis], labels).sum())
    return num_right / count if count else float("nan"), count


def read_real_labels(path, num_classes=1000):
    """Reads an official `real.json`.

    Args:
        path: the file's path.
        num_classes: the number of classes.

    Returns:
        int64 (N, `table.MAX_LABELS`), the labels of the N images in the order of their names,
        filled up with -1.

    Raises:
        ValueError: for a file that is not a list of lists of classes.
        OSError: for one that cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"ReaL labels must be a JSON file. Received: {path}: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"ReaL labels must be a list with an entry for each image. Received: {path}"
        )
    labels = np.full((len(rows), table.MAX_LABELS), -1, np.int64)
    for i, row in enumerate(rows):
        if (
            not isinstance(row, list)
            or len(row) > table.MAX_LABELS
            or not all(type(label) is int and 0 <= label < num_classes for label in row)
        ):
            raise ValueError(
                f"An image's ReaL labels must be a list of at most {table.MAX_LABELS} classes in "
                f"[0, {num_classes}). Received: {row!r} for image {i + 1} of {path}"
            )
        labels[i, : len(row)] = row
    return labels


def with_real_labels(info, path):
    """ImageNet with the labels of an official `real.json` in the place of its own.

    Args:
        info: the `DatasetInfo` of "imagenet2012".
        path: of the file.

    Returns:
        A `DatasetInfo` whose only split is `test`, the 50,000 validation images.

    Raises:
        ValueError: for another data set, or a file with another number of images.
    """
    source = info.source
    if info.name.partition(":")[0] != "imagenet2012" or "test" not in info.split_sizes:
        raise ValueError(
            "ReaL labels are those of the validation images of TFDS's imagenet2012. Received: "
            f"{info.name!r} with the splits {sorted(info.split_sizes)}"
        )
    labels = read_real_labels(path, info.num_classes)
    num_images = info.num_examples("test") + len(source.excluded.get("test", ()))
    if len(labels) != num_images:
        raise ValueError(
            f"ReaL labels must be as many as the images, {num_images}. Received: {len(labels)} in "
            f"{path}"
        )

    return dataclasses.replace(
        info,
        split_sizes={"test": info.num_examples("test")},
        source=dataclasses.replace(
            source,
            label_key="file_name",
            label=functools.partial(table.labels_of_validation_file, labels=labels),
            splits={"test": source.splits["test"]},
        ),
        evaluation=table.ANY_LABEL,
    )
