"""Whether the files of a prepared TFDS data set hold what its metadata says.

TFDS does not look: a shard that is cut on the border of a record ends early without a word, and one
that is another's copy is read.  Here each file must be there, all files together must have the size
that the metadata implies (a look at the directory, no reading), and where they have not, or two
files are equally long, the records are counted and compared.
"""

import collections
import hashlib
import os
import struct

from absl import logging

# A TFRecord is its length (8 bytes) and that one's CRC (4), the data, and its CRC (4).
_HEADER_BYTES = 12
_FRAME_BYTES = _HEADER_BYTES + 4
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 8


def count_records(path):
    """Counts the records of a TFRecord file by their lengths, without reading their data.

    Args:
        path: the file's path.

    Returns:
        The number of whole records.

    Raises:
        ValueError: for a file that ends within a record; the message names it and the offset.
    """
    num_records = offset = 0
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER_BYTES)
            end = size + 1
            if len(header) == _HEADER_BYTES:
                end = offset + _FRAME_BYTES + struct.unpack("<Q", header[:8])[0]
            if end > size:
                raise ValueError(
                    f"A file of a data set must hold whole records. Received: {path}, which ends "
                    f"within record {num_records} at byte {offset}; prepare the data set again."
                )
            num_records, offset = num_records + 1, end
    return num_records


def find_damage(paths):
    """Reads files to see which of them hold records that fail their checksums.

    Args:
        paths: of TFRecord files.

    Returns:
        A list of `(path, record)`: the first damaged record of each file that has one, from 0.
    """
    import tensorflow as tf

    damaged = []
    for path in paths:
        num_records = 0
        try:
            for _ in tf.data.TFRecordDataset(path):
                num_records += 1
        except tf.errors.DataLossError:
            damaged.append((path, num_records))
    return damaged


def _digest(path, size):
    """Of samples from all over a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for i in range(_NUM_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * i // (_NUM_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def _check_copies(split, sizes):
    """Raises for two files of a split that are equally long and equal wherever one looks."""
    counts = collections.Counter(sizes.values())
    seen = {}
    for path, size in sizes.items():
        if counts[size] > 1 and size > 0:
            other = seen.setdefault((size, _digest(path, size)), path)
            if other != path:
                raise ValueError(
                    f"The files of a split must differ. Received: {path} of {split!r}, a copy of "
                    f"{other}; prepare the data set again."
                )


def check_files(builder):
    """Checks all splits of a prepared data set against its metadata.

    Args:
        builder: a TFDS builder.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for files in another format than TFRecord, a file that is cut or has another
            number of records than the metadata says, or one that is a copy of another.
    """
    # Of mock data, and of data on other file systems, there is nothing to look at.
    if not builder.info.splits or not os.path.isdir(builder.data_path):
        return
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != "tfrecord":
        raise ValueError(
            "A data set must be stored as TFRecord files, the only ones that can be streamed. "
            f"Received: {builder.info.full_name} in {builder.data_path} as {file_format.value}; "
            "prepare it again with TFDS's `file_format='tfrecord'`, its default."
        )
    for name, split in builder.info.splits.items():
        sizes = {}
        for path in map(os.fspath, split.filepaths):
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"A file of {builder.info.full_name} {name!r} is missing. Received: {path}; "
                    "prepare the data set again."
                )
            sizes[path] = os.path.getsize(path)
        if sum(sizes.values()) != split.num_bytes + _FRAME_BYTES * split.num_examples:
            _check_counts(name, split.shard_lengths, sizes)
        _check_copies(name, sizes)


def _check_counts(split, lengths, sizes):
    logging.info("counting the records of %d files of %r", len(sizes), split)
    for path, expected in zip(sizes, lengths, strict=True):
        found = count_records(path)
        if found != expected:
            raise ValueError(
                f"A file must hold the records that the metadata says, {expected}. Received: "
                f"{path} of {split!r} with {found}; prepare the data set again."
            )
