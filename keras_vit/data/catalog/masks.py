"""Data sets of images with masks: a folder, ADE20K's folder, or the pets of TFDS.

ROOT/SPLIT/images/NAME.jpg   ROOT/SPLIT/masks/NAME.png   ROOT/classes.txt or classes.json
ROOT/images/SPLIT/NAME.jpg   ROOT/annotations/SPLIT/NAME.png   ROOT/objectInfo150.txt (ADE20K)
"""

import dataclasses
import json
import os
import pathlib

import tensorflow as tf
from absl import logging

from keras_vit.data.batches import NUM_THREADS, make_options
from keras_vit.data.catalog import folders
from keras_vit.data.catalog.builders import prepared_builder
from keras_vit.data.catalog.resolve import DatasetInfo
from keras_vit.data.images.windows import IGNORE
from keras_vit.data.sources.masks import MaskFormat, MaskSource, MaskSplit, decode_mask
from keras_vit.data.splits import TEST, TRAIN, VALIDATION
from keras_vit.errors import DataLayoutError

PETS = "oxford_iiit_pet"
_PET_CLASSES = ("pet", "background", "border")
_SPLITS = {"training": TRAIN, "val": VALIDATION, "testing": TEST}
_TABLES = ("classes.json", "classes.txt")
_IGNORED = ("ignore", "ignored", "void")
_NUM_ADE20K = 150


def resolve_masks(dataset, data_dir=None, *, download=False, max_pixels=None):
    """Finds a data set for segmentation.

    Args:
        dataset: The path of a folder in one of the layouts above, `"oxford_iiit_pet"`, whose
            trimaps are read from TFDS (classes pet, background and border), or a `DatasetInfo` of
            a `MaskSource`.
        data_dir, download, max_pixels: As in `keras_vit.data.pipeline.resolve`.

    Returns:
        A `DatasetInfo` whose source is a `MaskSource`.

    Raises:
        FileNotFoundError: For a path that does not exist.
        ValueError: For a folder in another layout, an image without a mask or the other way round,
            or a table of classes that is none.
    """
    if isinstance(dataset, DatasetInfo):
        if not isinstance(dataset.source, MaskSource):
            raise ValueError(
                f"a segmentation needs masks. Received: {dataset.name!r}, which has none"
            )
        info = dataset
    elif not isinstance(dataset, str | os.PathLike):
        raise TypeError(
            "the data of a segmentation must be a folder, a name or a DatasetInfo. Received: "
            f"{type(dataset).__name__}"
        )
    elif os.fspath(dataset).partition(":")[0] == PETS and not os.path.isdir(dataset):
        info = _pets(os.fspath(dataset), data_dir, download)
    else:
        info = _folder(os.fspath(dataset))
    return info if max_pixels is None else dataclasses.replace(info, max_pixels=max_pixels)


def _folder(name):
    root = pathlib.Path(name).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"the data of a segmentation must be a folder with masks, or {PETS!r}. Received: "
            f"{name!r}, which is no folder"
        )
    splits = {
        _SPLITS.get(split, split): _pairs(images, masks) for split, images, masks in _parts(root)
    }
    class_names, mask_format = _classes(root, splits)
    return DatasetInfo(
        name=name,
        class_names=class_names,
        split_sizes={split: len(part.images) for split, part in splits.items()},
        source=MaskSource(splits=splits, mask_format=mask_format),
    )


def _parts(root):
    """(split, folder of images, folder of masks) for each split."""
    for masks in ("annotations", "masks"):
        if (root / "images").is_dir() and (root / masks).is_dir():
            names = sorted(path.name for path in (root / "images").iterdir() if path.is_dir())
            if names:
                return [(name, root / "images" / name, root / masks / name) for name in names]
            return [(TRAIN, root / "images", root / masks)]
    found = sorted(path.parent for path in root.glob("*/images") if path.is_dir())
    if not found:
        raise DataLayoutError(
            "a folder for segmentation must hold SPLIT/images and SPLIT/masks, or images/SPLIT and "
            f"annotations/SPLIT. Received: {root}, with neither"
        )
    return [(path.name, path / "images", path / "masks") for path in found]


def _pairs(images, masks):
    """The `MaskSplit` of two folders: files of the same name but for the ending."""

    def files(folder):
        if not folder.is_dir():
            raise DataLayoutError(f"images need a folder of masks. Received: no {folder}")
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                key = os.fspath(path.relative_to(folder).with_suffix(""))
                if key in found:
                    raise DataLayoutError(
                        f"files must differ in more than their ending. Received: {found[key]} and "
                        f"{path}"
                    )
                found[key] = os.fspath(path)
        return found

    of_images, of_masks = files(images), files(masks)
    for key, path in of_images.items():
        if key not in of_masks:
            raise DataLayoutError(
                f"each image needs a mask. Received: {path} without {masks / key}.png"
            )
    for key, path in of_masks.items():
        if key not in of_images:
            raise DataLayoutError(
                f"each mask needs an image. Received: {path} without one in {images}"
            )
    keys = list(folders.in_natural_order(of_images))
    return MaskSplit(
        images=tuple(of_images[key] for key in keys), masks=tuple(of_masks[key] for key in keys)
    )


def _classes(root, splits):
    """(class names, `MaskFormat`), from a table beside the images or else from the masks."""
    for name in _TABLES:
        if (root / name).is_file():
            return read_classes(root / name)
    if (root / "annotations").is_dir():
        # ADE20K: 0 is what has no class.
        names = tuple(str(k) for k in range(1, _NUM_ADE20K + 1))
        table = root / f"objectInfo{_NUM_ADE20K}.txt"
        if table.is_file():
            lines = table.read_text(encoding="utf-8").splitlines()[1:]
            names = tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
        return names, MaskFormat(num_classes=len(names), first=1)
    highest = max((_highest(part) for part in splits.values()), default=-1)
    logging.info("%s has no table of classes: they are those in its masks, 0 to %d", root, highest)
    if highest < 0:
        raise ValueError(f"masks must have a class somewhere. Received: {root}, all ignored")
    return tuple(map(str, range(highest + 1))), MaskFormat(num_classes=highest + 1)


def _highest(part):
    """The highest class in the masks of a split."""
    every = MaskFormat(num_classes=IGNORE)

    def highest(path):
        mask = tf.cast(decode_mask(tf.io.read_file(path), every, path), tf.int32)
        return tf.reduce_max(tf.where(mask == IGNORE, -1, mask))

    paths = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in part.masks])
    numbers = paths.map(highest, num_parallel_calls=NUM_THREADS).with_options(make_options())
    return max(map(int, numbers.as_numpy_iterator()), default=-1)


def read_classes(path):
    """Reads a table of classes.

    `classes.txt` has a class on each line, `NAME` or `RED GREEN BLUE NAME`; `classes.json` is a
    list of names, or an object from name to [red, green, blue].  Without colors a mask's values are
    the classes, in this order; the color of a class called `ignore` or `void` counts nowhere.

    Args:
        path: Of the table.

    Returns:
        `(class_names, mask_format)`: a tuple of names and a `MaskFormat`.

    Raises:
        ValueError: For anything else.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(text) if path.suffix == ".json" else _text_rows(text)
    except ValueError as error:
        raise ValueError(f"a table of classes must be one. Received: {path}: {error}") from None
    with_color = [row for row in rows if row[1] is not None]
    names = [name for name, _ in rows]
    colors = [color for _, color in with_color]
    if not rows or (with_color and len(with_color) != len(rows)):
        raise ValueError(f"a table must give all classes a color, or none. Received: {path}")
    if len(set(names)) != len(names) or len(set(colors)) != len(colors):
        raise ValueError(f"classes must differ in name and in color. Received: {path}")
    if not with_color:
        return tuple(names), MaskFormat(num_classes=len(names))
    ignored = [row for row in rows if row[0].lower() in _IGNORED]
    kept = [row for row in rows if row not in ignored]
    return tuple(name for name, _ in kept), MaskFormat(
        num_classes=len(kept),
        colors=tuple(color for _, color in kept),
        ignored_colors=tuple(color for _, color in ignored),
    )


def _color(values):
    color = tuple(int(value) for value in values)
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(f"a color is three numbers in [0, 255], not {list(values)}")
    return color


def _json_rows(text):
    table = json.loads(text)
    if isinstance(table, list) and all(isinstance(name, str) for name in table):
        return [(name, None) for name in table]
    if isinstance(table, dict) and all(isinstance(color, list) for color in table.values()):
        return [(name, _color(color)) for name, color in table.items()]
    raise ValueError("it must be a list of names, or an object from name to [red, green, blue]")


def _text_rows(text):
    rows = []
    for line in text.splitlines():
        parts = line.replace(",", " ").split()
        if len(parts) > 3 and all(part.isdecimal() for part in parts[:3]):
            rows.append((" ".join(parts[3:]), _color(parts[:3])))
        elif parts:
            rows.append((line.strip(), None))
    return rows


def _pets(name, data_dir, download):
    """The trimaps of TFDS: 1 pet, 2 background, 3 border."""
    import tensorflow_datasets as tfds

    builder = prepared_builder(name, data_dir, download)
    keys = ("image", "segmentation_mask")
    splits = {}
    for split in builder.info.splits:
        stream = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(
                dict.fromkeys(keys, True), decoders=dict.fromkeys(keys, tfds.decode.SkipDecoding())
            ),
            read_config=tfds.ReadConfig(try_autocache=False),
            shuffle_files=False,
        )
        pairs = [(pair[keys[0]], pair[keys[1]]) for pair in stream.as_numpy_iterator()]
        images, masks = zip(*pairs, strict=True)
        splits[split] = MaskSplit(images=images, masks=masks, is_path=False)
    return DatasetInfo(
        name=name,
        class_names=_PET_CLASSES,
        split_sizes={split: len(part.images) for split, part in splits.items()},
        source=MaskSource(
            splits=splits, mask_format=MaskFormat(num_classes=len(_PET_CLASSES), first=1)
        ),
    )
