"""A data set's name -> its classes, its splits and how to read it."""

import contextlib
import dataclasses
import difflib
import io
import math
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_vit.data import folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Images in files: `splits` maps a split's name to its `FolderSplit`."""

    splits: Mapping[str, folders.FolderSplit]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSource:
    """Images in a prepared TFDS `builder`, under two of its features' names.

    Args:
        builder: the TFDS builder.
        image_key: the name of the feature that is the image.
        label_key: the name of the feature that is the label.
        splits: our name of a split -> the TFDS slice that it is, such as "train[:98%]"; other names
            and slices go to TFDS as they are.
    """

    builder: Any
    image_key: str
    label_key: str
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tfds_split(self, split):
        """The TFDS slice that a split is."""
        return self.splits.get(split, split)

    def num_examples(self, split):
        """The number of examples of a split."""
        return self.builder.info.splits[self.tfds_split(split)].num_examples

    def num_bytes(self, split):
        """What a split takes on disk, in bytes; of slices an estimate from above."""
        # TFDS calls the size of a slice 0.
        spec = self.tfds_split(split)
        wholes = [self.builder.info.splits[part.split("[")[0]] for part in spec.split("+")]
        largest = max(whole.num_bytes / max(whole.num_examples, 1) for whole in wholes)
        return math.ceil(largest * self.num_examples(split))

    @property
    def image_shape(self):
        """(H, W, C) of every image in pixels; None where they differ."""
        return self.builder.info.features[self.image_key].shape

    def stream(self, split):
        """Reads a split in the order in which it was written.

        Args:
            split: one of our splits, or a TFDS slice.

        Returns:
            A finite `tf.data.Dataset` of (image, label): the image is a scalar string, encoded, or
            uint8 (H, W, 3) where the data set holds no encoded image; the label is int64, a scalar,
            or (K,) padded with -1 where an image may have several.

        Raises:
            tf.errors.FailedPreconditionError: at the end, if there are fewer examples than the
                metadata says.
        """
        import tensorflow as tf
        import tensorflow_datasets as tfds

        stream = self.builder.as_dataset(
            split=self.tfds_split(split),
            decoders={self.image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
            shuffle_files=False,
        )
        # A file that was cut on the border of a record would end early without a word.
        stream = stream.apply(tf.data.experimental.assert_cardinality(self.num_examples(split)))
        return stream.map(lambda example: (example[self.image_key], example[self.label_key]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A classification data set.

    Args:
        name: what it was asked for by.
        class_names: the classes, in the order of their labels.
        split_sizes: the number of examples of each split.
        source: where the examples are, a `FolderSource` or a `TfdsSource`.
    """

    name: str
    class_names: tuple[str, ...]
    split_sizes: Mapping[str, int]
    source: FolderSource | TfdsSource

    @property
    def num_classes(self):
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_size(self):
        """(height, width) in pixels where all images have the same, else None."""
        if isinstance(self.source, FolderSource):
            return None
        size = self.source.builder.info.features[self.source.image_key].shape[:2]
        return None if None in size else tuple(size)

    def num_examples(self, split):
        """The number of examples of a split; of a TFDS set also of slices like "train[:90%]".

        Raises:
            ValueError: for a split that is not there.
        """
        base = split.split("[")[0]
        sliced = base != split
        if base not in self.split_sizes or (sliced and isinstance(self.source, FolderSource)):
            close = difflib.get_close_matches(split, self.split_sizes)
            raise ValueError(
                f"`split` must be one of {sorted(self.split_sizes)}, the splits of {self.name!r}. "
                f"Received: {split!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        if sliced:
            return self.source.num_examples(split)
        return self.split_sizes[split]


def _features(builder, name):
    """The names of the image and of the label among a TFDS builder's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    is_dict = isinstance(features, tfds.features.FeaturesDict)
    features = dict(features.items()) if is_dict else {}
    keys = builder.info.supervised_keys or ()
    if len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        keys = tuple(
            next((key for key, feature in features.items() if isinstance(feature, kind)), None)
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        )
    image, label = (features.get(key) if key else None for key in keys)
    if (
        not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise ValueError(
            "A data set for classification must have a uint8 image and a class label. "
            f"Received: {name!r} with {features}"
        )
    return keys


def _unknown_name(name, known, data_dir):
    prepared = []
    with contextlib.suppress(OSError):
        prepared = [entry.name for entry in os.scandir(data_dir) if entry.is_dir()]
    candidates = sorted({*known, *prepared, "digits/upstream", "digits/downstream", "digits/all"})
    close = difflib.get_close_matches(name, candidates, n=5)
    close = close or difflib.get_close_matches(name.split("/")[0], candidates, n=5)
    return ValueError(
        "`dataset` must be the name of a TFDS data set or the path of a folder with "
        f"{{train,validation,test}}/<class>/<image>. Received: {name!r}; "
        + (
            f"close names: {', '.join(close)}"
            if close
            else "no known name is close to it; `digits/all` is always there"
        )
    )


def _prepare(builder, name, download):
    """Prepares a TFDS data set; the embedded one at once, another one if the user asked for it."""
    import tensorflow_datasets as tfds

    embedded = builder.name == "digits"
    if not embedded and not download:
        raise ValueError(
            "A data set must be prepared before it is read, and nothing is downloaded without "
            f"being asked. Received: {name!r}, not found in {builder.data_dir}; pass "
            "`download=True` (on the command line `--download`) or another `data_dir`."
        )
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.ExitStack() as stack:
        # TFDS prints to stdout, which belongs to the command's results.
        quiet = io.StringIO()
        stack.enter_context(contextlib.redirect_stdout(quiet if embedded else sys.stderr))
        if embedded:
            stack.enter_context(contextlib.redirect_stderr(quiet))
        try:
            builder.download_and_prepare(download_config=config)
        except OSError:
            # Another process may have come first with the same folder.
            if not builder.is_prepared():
                raise


def _resolve_tfds(name, data_dir, download):
    import tensorflow_datasets as tfds

    from keras_vit.data import digits  # registers the builder

    del digits
    known = tfds.list_builders(with_community_datasets=False)
    data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    base = name.split("/")[0].split(":")[0]
    if base not in known and not pathlib.Path(data_dir, base).is_dir():
        raise _unknown_name(name, known, data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, tfds.core.DatasetNotFoundError) as error:
        configs = sorted(tfds.builder_cls(base).builder_configs) if base in known else []
        raise ValueError(
            f"`dataset` must name a configuration of {base!r}"
            + (f", one of {configs}" if configs else "")
            + f". Received: {name!r}"
        ) from error
    if not builder.info.splits:  # not `is_prepared`, which logs a warning
        _prepare(builder, name, download)
        builder = tfds.builder(name, data_dir=data_dir)
    image_key, label_key = _features(builder, name)
    return DatasetInfo(
        name=name,
        class_names=tuple(builder.info.features[label_key].names),
        split_sizes={split: info.num_examples for split, info in builder.info.splits.items()},
        source=TfdsSource(builder=builder, image_key=image_key, label_key=label_key),
    )


def resolve(dataset, data_dir=None, *, download=False):
    """Finds a data set by its TFDS name or its folder.

    The embedded `digits` (configs `all`, `upstream`, `downstream`) is prepared when it is first
    asked for, without network.  A name that TFDS knows comes before a folder of the same name, for
    which write `./name`.

    Args:
        dataset: a TFDS name such as "digits/upstream" or "cifar10:3.0.2", or the path of a folder
            `{train,validation,test}/<class>/<image>` of JPEG and PNG files.
        data_dir: where TFDS keeps its data sets; None means its default, `TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.
        download: whether a TFDS data set that is not there may be downloaded.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: for an unknown name (the message lists close ones), a data set that is not
            prepared and may not be downloaded, one that is not for classification, or a folder in
            another layout.
        FileNotFoundError: for a path that does not exist.
    """
    dataset = os.fspath(dataset)
    path = pathlib.Path(dataset).expanduser()
    is_path = dataset.startswith((".", "~", os.sep))
    if is_path and not path.is_dir():
        raise FileNotFoundError(f"A data set's path must be a folder. Received: {dataset}")
    if not is_path and path.is_dir():
        import tensorflow_datasets as tfds

        base = dataset.split("/")[0]
        is_path = base != "digits" and base not in tfds.list_builders(with_community_datasets=False)
    if not is_path:
        return _resolve_tfds(dataset, data_dir, download)
    class_names, splits = folders.read_folder(path)
    return DatasetInfo(
        name=dataset,
        class_names=class_names,
        split_sizes={split: len(files.paths) for split, files in splits.items()},
        source=FolderSource(splits=splits),
    )
