"""Images in a prepared TFDS data set."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_vit.data.catalog import tfrecord_check
from keras_vit.data.sources.files import file_version
from keras_vit.data.sources.protocol import Source, digest, keep


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSource(Source):
    """Images in a prepared TFDS `builder`, under two of its features' names.

    Args:
        builder: the TFDS builder.
        image_key: the name of the feature that is the image.
        label_key: the name of the feature that the label is or is made from.
        splits: our name of a split -> the TFDS slice that it is, such as "train[:98%]"; where it is
            empty, names and slices are TFDS's own.
        label_fields: the fields of a nested label feature that `label` needs; empty takes all.
        label: a function from the label feature to the int64 label, a scalar or (K,) padded with
            -1; None takes the feature as it is.
        pixels: a function from the decoded image, uint8 (H, W, C), to uint8 (H, W, 3), where the
            encoded image is not yet the picture; None leaves images encoded.
        excluded: a split -> the places of the examples that are left out of it.
    """

    builder: Any
    image_key: str
    label_key: str
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_fields: tuple[str, ...] = ()
    label: Callable | None = None
    pixels: Callable | None = None
    excluded: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def tfds_split(self, split):
        """The TFDS slice that a split is.

        A slice of a split of ours that is all of a TFDS split is a slice of that one.  "train[...]"
        is a slice of TFDS's `train` also where our `train` leaves the validation part out of it.

        Raises:
            ValueError: for a slice of another split of ours.
        """
        base, bracket, rest = split.partition("[")
        if not bracket or base not in self.splits:
            return self.splits.get(split, split)
        ours = self.splits[base]
        whole = ours if "[" not in ours and "+" not in ours else base
        if whole != ours and self.splits.get("trainval") != base:
            raise ValueError(
                f"a slice must be of a whole split, and {base!r} is {ours!r} of TFDS. "
                f"Received: {split!r}; take {base!r}"
            )
        return whole + bracket + rest

    @property
    def takes_slices(self):
        """True: TFDS's slices are splits too."""
        return True

    def image_dtype(self, split):
        """Returns "string" for encoded images, "uint8" where they are made into pictures."""
        return "string" if self.pixels is None else "uint8"

    def without(self, excluded):
        """Returns the source without some examples."""
        return dataclasses.replace(
            self, excluded={split: tuple(sorted(places)) for split, places in excluded.items()}
        )

    def _files(self, split):
        return [os.fspath(p) for p in self.builder.info.splits[self.tfds_split(split)].filepaths]

    def fingerprint(self, split):
        """Returns a digest of the name, version and files of the data set."""
        files = self._files(split) if self.builder.info.splits else []
        versions = [(os.path.basename(path), file_version(path)) for path in files]
        name = (self.builder.info.full_name, self.tfds_split(split), self.label_key)
        return digest(name, self.excluded.get(split, ()), versions)

    def find_damage(self, split):
        """Returns which records of the split's files do not have their checksums."""
        damage = tfrecord_check.find_damage(self._files(split))
        return [f"record {record} of {path} does not have its checksum" for path, record in damage]

    def num_examples(self, split):
        """The number of examples of a split."""
        return self._num_written(split) - len(self.excluded.get(split, ()))

    def _num_written(self, split):
        if not self.builder.info.splits:  # TFDS's mock data tells nothing
            return int(self._as_dataset(split, {self.label_key: True}).cardinality())
        return self.builder.info.splits[self.tfds_split(split)].num_examples

    def _without_excluded(self, stream, split):
        import tensorflow as tf

        if not self.excluded.get(split):
            return stream
        is_kept = tf.constant(keep(self._num_written(split), self.excluded[split]))
        stream = stream.enumerate().filter(lambda index, example: is_kept[index])
        stream = stream.map(lambda index, example: example)
        return stream.apply(tf.data.experimental.assert_cardinality(self.num_examples(split)))

    def num_bytes(self, split):
        """What a split takes in bytes, as it is streamed; of slices an estimate from above."""
        if self.pixels is not None:
            height, width, channels = self.image_shape
            return height * width * channels * self.num_examples(split)
        if not self.builder.info.splits:
            return 0
        # TFDS calls the size of a slice 0.
        spec = self.tfds_split(split)
        wholes = [self.builder.info.splits[part.split("[")[0]] for part in spec.split("+")]
        largest = max(whole.num_bytes / max(whole.num_examples, 1) for whole in wholes)
        return math.ceil(largest * self.num_examples(split))

    @property
    def image_shape(self):
        """(H, W, C) of every image in pixels; None where they differ."""
        shape = self.builder.info.features[self.image_key].shape
        return shape if self.pixels is None else (*shape[:2], 3)

    def tfds_class_names(self):
        """The names of the label feature's classes, in the order of the labels."""
        feature = self.builder.info.features[self.label_key]
        return tuple(getattr(feature, "feature", feature).names)

    def _as_dataset(self, split, features):
        import tensorflow_datasets as tfds

        decoders = (
            {self.image_key: tfds.decode.SkipDecoding()} if self.image_key in features else {}
        )
        return self.builder.as_dataset(
            split=self.tfds_split(split),
            decoders=tfds.decode.PartialDecoding(features, decoders=decoders),
            read_config=tfds.ReadConfig(try_autocache=False),
            shuffle_files=False,
        )

    def _label_features(self):
        return {self.label_key: set(self.label_fields) or True}

    def stream(self, split):
        """Reads a split in the order in which it was written.

        Args:
            split: one of our splits, or a TFDS slice.

        Returns:
            A finite `tf.data.Dataset` of (image, label): the image is a scalar string, encoded, or
            uint8 (H, W, 3) where the data set holds no encoded picture; the label is int64, a
            scalar, or (K,) padded with -1 where an image may have several.

        Raises:
            tf.errors.FailedPreconditionError: at the end, if there are fewer examples than the
                metadata says.
        """
        import tensorflow as tf

        stream = self._as_dataset(split, {self.image_key: True, **self._label_features()})
        # A file that was cut on the border of a record would end early without a word.
        stream = stream.apply(tf.data.experimental.assert_cardinality(self._num_written(split)))
        stream = self._without_excluded(stream, split)
        decode = self.builder.info.features[self.image_key].decode_example

        def read(example):
            image, label = example[self.image_key], example[self.label_key]
            if self.pixels is not None:
                image = self.pixels(decode(image))
            return image, label if self.label is None else self.label(label)

        return stream.map(read)

    def labels(self, split):
        """The labels of a split without its images: int64 (n,) or (n, K), a NumPy array."""
        stream = self._without_excluded(self._as_dataset(split, self._label_features()), split)
        stream = stream.map(lambda example: example[self.label_key])
        if self.label is not None:
            stream = stream.map(self.label)
        return np.array(list(stream.as_numpy_iterator()))
