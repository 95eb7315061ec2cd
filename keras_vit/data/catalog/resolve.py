"""A data set's name -> its classes, its splits and how to read it."""

import dataclasses
import difflib
import os
import pathlib
from collections.abc import Mapping

from absl import logging

from keras_vit.data.catalog import builders, folders, names, rows, unsplit
from keras_vit.data.images.image_problems import MAX_FILE_PIXELS, MAX_JPEG_PIXELS
from keras_vit.data.sources import files, user
from keras_vit.data.sources.files import FileSource
from keras_vit.data.sources.protocol import Source, digest
from keras_vit.data.sources.tfds import TfdsSource
from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.progress import image_progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A classification data set.

    Args:
        name: what it was asked for by.
        class_names: the classes, in the order of their labels.
        split_sizes: the number of examples of each split.
        source: where the examples are, see `keras_vit.data.sources.protocol`.
        evaluation: how accuracy is computed, `table.TOP_1`, `ANY_LABEL` or `SHARED_CLASSES`.
        max_pixels: the largest height x width that is decoded; above 2^25 a JPEG is decoded at 1/2,
            1/4 or 1/8, and nothing else is.
        augmentation: what the augmentation "bit_by_task" is for it, see `rows.Dataset`.
    """

    name: str
    class_names: tuple[str, ...]
    split_sizes: Mapping[str, int]
    source: Source
    evaluation: str = rows.TOP_1
    augmentation: str = rows.BIT
    max_pixels: int = MAX_FILE_PIXELS

    @property
    def num_classes(self):
        """The number of classes, or of values."""
        return len(self.class_names)

    @property
    def task(self):
        """What the labels are, one of `keras_vit.data.tasks.TASKS`."""
        return getattr(self.source, "task", CLASSIFICATION)

    @property
    def image_size(self):
        """(height, width) in pixels where all images have the same, else None."""
        shape = self.source.image_shape
        return None if shape is None or None in shape[:2] else tuple(shape[:2])

    def fingerprint(self, splits):
        """Returns a hexadecimal digest that changes with the data of these splits.

        Of files it sees names, labels, sizes and times, of TFDS sets name and version too, of
        arrays all values, and of a `tf.data.Dataset` its size, its labels and its first examples.
        """
        parts = [(s, self.num_examples(s), self.source.fingerprint(s)) for s in splits]
        return digest(self.name, self.class_names, *parts)

    def num_examples(self, split):
        """The number of examples of a split; of a TFDS set also of slices like "train[:90%]".

        Raises:
            ValueError: for a split that is not there.
        """
        base = split.split("[")[0]
        sliced = base != split
        if base not in self.split_sizes or (sliced and not self.source.takes_slices):
            close = difflib.get_close_matches(split, self.split_sizes)
            raise ValueError(
                f"`split` must be one of {sorted(self.split_sizes)}, the splits of {self.name!r}. "
                f"Received: {split!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        if sliced:
            return self.source.num_examples(split)
        return self.split_sizes[split]


def _resolve_row(row, name, data_dir, download):
    """A data set of the table; `name` may ask for a version of its own."""
    version = name.partition(":")[2]
    tfds_name = f"{row.tfds.split(':')[0]}:{version}" if version else row.tfds
    builder = builders.prepared_builder(tfds_name, data_dir, download, name)
    # TFDS's mock data has no sizes.
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()} or row.whole
    for split, expected in row.whole.items():
        if sizes.get(split, expected) != expected:
            logging.warning(
                "%s has %d examples in %r of TFDS; %d are published",
                *(row.name, sizes[split], split, expected),
            )
    source = TfdsSource(
        builder=builder,
        image_key=row.image_key,
        label_key=row.label_key,
        splits=row.tfds_slices(sizes),
        label_fields=row.label_fields,
        label=row.label,
        pixels=row.pixels,
    )
    class_names = row.class_names or source.tfds_class_names()
    if row.num_classes not in (None, len(class_names)):
        raise ValueError(
            f"{row.name!r} must have {row.num_classes} classes. Received: {len(class_names)} in "
            f"{builder.data_path}; prepare it again."
        )
    return DatasetInfo(
        name=name,
        class_names=class_names,
        split_sizes={split: source.num_examples(split) for split in source.splits},
        source=source,
        evaluation=row.evaluation,
        augmentation=row.augmentation,
    )


def _resolve_tfds(name, data_dir, download):
    row = names.find_dataset(name.partition(":")[0])
    if row is not None:
        return _resolve_row(row, name, data_dir, download)
    builder = builders.prepared_builder(name, data_dir, download)
    image_key, label_key = builders.image_and_label(builder, name)
    return DatasetInfo(
        name=name,
        class_names=tuple(builder.info.features[label_key].names),
        split_sizes={split: info.num_examples for split, info in builder.info.splits.items()},
        source=TfdsSource(builder=builder, image_key=image_key, label_key=label_key),
    )


def resolve(
    dataset,
    data_dir=None,
    *,
    download=False,
    refuse=None,
    class_names=None,
    max_pixels=None,
    task=None,
):
    """Finds a data set by its name, its folder or its list, or takes the user's own data.

    Names are those of the table (`keras_vit.list_datasets`), whose splits are the official `train`,
    `validation`, `trainval` and `test`, and those of TFDS's other sets for classification, with
    TFDS's splits.

    The embedded `digits` (configs `all`, `upstream`, `downstream`) is prepared when it is first
    asked for, without network.  A name that TFDS knows comes before a folder of the same name, for
    which write `./name`.

    Args:
        dataset: a name such as "vtab/dtd", "cifar10:3.0.2" or "beans"; the path of a folder
            `{train,validation,test}/<class>/<image>`, or of one `<class>/<image>`, whose split is
            made of the pictures' contents (`unsplit.split_by_content`); the path of a list
            (`files.read_list`) with the ending .csv or .jsonl; a `DatasetInfo`, which is returned;
            or the user's own data (`user.read_user_data`): (images, labels), a `tf.data.Dataset`
            or a `keras.utils.PyDataset`, which is for training, or a dict of splits to such.
        data_dir: where TFDS keeps its data sets; None means its default, `TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.
        download: whether a TFDS data set that is not there may be downloaded or, where it cannot,
            prepared from the files that its user put where the error says.
        refuse: what `folders.read_folder` does about what breaks its rules; None raises.
        class_names: the classes in the order of their labels, of a list or the user's own data;
            None takes those that occur.
        max_pixels: the largest height x width of an image that is decoded, see `DatasetInfo`; None
            takes 2^28.
        task: what the labels must be, one of `keras_vit.data.tasks.TASKS`, as which data of one's
            own are read; None takes what a list tells, and else one class an image.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: for an unknown name (the message lists close ones), a data set that is not
            prepared and may not be downloaded, one that is not for classification, files that are
            cut or copies (see `shards.check_files`), or a folder in another layout.
        FileNotFoundError: for a path or a file of a data set that does not exist.
    """
    info = _resolve(dataset, data_dir, download, refuse, class_names, task)
    user.check_task(info, task)
    if max_pixels is None:
        return info
    if type(max_pixels) is not int or not 0 < max_pixels <= MAX_JPEG_PIXELS:
        raise ValueError(
            f"`max_pixels` must be an integer in [1, {MAX_JPEG_PIXELS}]. Received: {max_pixels!r}"
        )
    return dataclasses.replace(info, max_pixels=max_pixels)


def _resolve(dataset, data_dir, download, refuse, class_names, task):
    if isinstance(dataset, DatasetInfo):
        return dataset
    if user.is_user_data(dataset):
        return _info(*user.read_user_data(dataset, class_names, task))
    if not isinstance(dataset, str | os.PathLike):
        raise TypeError(
            "`dataset` must be a name, a path, a DatasetInfo or data of your own. "
            f"Received: {type(dataset).__name__}"
        )
    dataset = os.fspath(dataset)
    path = pathlib.Path(dataset).expanduser()
    if path.suffix.lower() in files.LIST_ENDINGS and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"A data set's list must be a file. Received: {dataset}")
        return _info(dataset, *files.read_list(path, class_names))
    if class_names is not None:
        raise ValueError(
            "`class_names` are for lists and for data of one's own. Received: "
            f"{class_names!r} with {dataset!r}, which has its own"
        )
    is_path = dataset.startswith((".", "~", os.sep))
    if is_path and not path.is_dir():
        raise FileNotFoundError(f"A data set's path must be a folder. Received: {dataset}")
    if not is_path and path.is_dir():
        base = builders.base_name(dataset)
        is_row = names.find_dataset(dataset) is not None
        is_path = not is_row and base not in builders.known_builders(base)
    if not is_path:
        return _resolve_tfds(dataset, data_dir, download)
    given = {"refuse": refuse} if refuse else {}
    if folders.is_unsplit(path):
        return _resolve_unsplit(dataset, path, **given)
    class_names, splits = folders.read_folder(path, **given)
    return _info(dataset, class_names, FileSource(splits=splits))


def _resolve_unsplit(dataset, path, **refuse):
    """The data set in a folder of classes: the split is made of the pictures' contents."""
    class_names, pictures = folders.read_classes(path, **refuse)
    with image_progress(len(pictures.paths), "splitting") as advance:
        splits = unsplit.split_by_content(pictures.paths, pictures.labels, progress=advance)
    return _info(dataset, class_names, FileSource(splits=splits, rule=unsplit.BY_CONTENT))


def _info(name, class_names, source):
    sizes = {split: source.num_examples(split) for split in source.splits}
    return DatasetInfo(name=name, class_names=class_names, split_sizes=sizes, source=source)
