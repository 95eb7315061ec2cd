"""No silent shortfall: what happened to a data set's files is found before anything is read."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_vit.data import integrity
from keras_vit.data.catalog import resolve, tfrecord_check

NUM_EXAMPLES = 12
NUM_SHARDS = 4


class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Grey images, whose label is even or odd."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(2, 2, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for k in range(NUM_EXAMPLES):
            yield k, {"image": np.full((2, 2, 3), k, np.uint8), "label": k % 2}


def _write(data_dir, file_format="tfrecord"):
    builder = Numbers(data_dir=data_dir, file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=NUM_SHARDS)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("written")
    _write(data_dir)
    return data_dir


@pytest.fixture
def files(written, tmp_path):
    """A copy of the data set: its shards in order, of a data_dir `tmp_path`."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    paths = sorted((tmp_path / "numbers" / "1.0.0").glob("*.tfrecord*"))
    assert len(paths) == NUM_SHARDS
    return paths


def _resolve(files):
    return resolve.resolve("numbers", files[0].parents[2])


def test_check_files_of_a_whole_data_set_counts_nothing(files, monkeypatch):
    monkeypatch.setattr(tfrecord_check, "count_records", None)
    info = _resolve(files)
    assert info.split_sizes == {"train": NUM_EXAMPLES}
    assert len(list(info.source.stream("train"))) == NUM_EXAMPLES


def test_count_records_counts_what_the_metadata_says(files):
    lengths = _resolve(files).source.builder.info.splits["train"].shard_lengths
    assert [tfrecord_check.count_records(path) for path in files] == lengths
    assert sum(lengths) == NUM_EXAMPLES


def test_check_files_finds_every_cut(files):
    whole = files[1].read_bytes()
    for length in range(len(whole)):
        files[1].write_bytes(whole[:length])
        # On the border of a record there are too few; elsewhere the file ends within one.
        with pytest.raises(ValueError, match=f"{files[1].name}.*; prepare the data set again"):
            _resolve(files)
    files[1].write_bytes(whole)
    _resolve(files)


def test_check_files_finds_a_file_that_grew(files):
    with open(files[2], "ab") as file:
        file.write(files[0].read_bytes())
    with pytest.raises(ValueError, match=rf"{files[2].name} of 'train' with 6"):
        _resolve(files)


def test_find_damage_names_the_file_and_the_record(files):
    data = bytearray(files[2].read_bytes())
    data[-20] ^= 1  # in the last record's data: no size changes
    files[2].write_bytes(data)
    last = _resolve(files).source.builder.info.splits["train"].shard_lengths[2] - 1
    assert tfrecord_check.find_damage(map(str, files)) == [(str(files[2]), last)]
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        list(_resolve(files).source.stream("train"))
    _, entries = integrity.check("numbers", files[0].parents[2])
    reasons = [entry.reason for entry in entries]
    assert f"record {last} of {files[2]} does not have its checksum" in reasons


def test_check_files_finds_a_missing_file(files):
    files[3].unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"'train' is missing. Received: .*{files[3].name}"
    ):
        _resolve(files)


def test_check_files_finds_a_copy(files):
    shutil.copy(files[0], files[2])
    with pytest.raises(
        ValueError, match=rf"Received: .*{files[2].name} .*copy of .*{files[0].name}"
    ):
        _resolve(files)


def test_check_files_with_another_meaning_of_the_size_counts(files, monkeypatch):
    info = files[0].parent / "dataset_info.json"
    size = _resolve(files).source.builder.info.splits["train"].num_bytes
    info.write_text(info.read_text().replace(f'"{int(size)}"', f'"{int(size) + 7}"'))
    counted = []
    count = tfrecord_check.count_records
    monkeypatch.setattr(
        tfrecord_check, "count_records", lambda path: counted.append(path) or count(path)
    )
    assert _resolve(files).split_sizes == {"train": NUM_EXAMPLES}
    assert len(counted) == NUM_SHARDS


def test_check_files_refuses_another_format_whole_or_cut(tmp_path):
    pytest.importorskip("array_record")
    _write(tmp_path, "array_record")
    with pytest.raises(ValueError, match="as array_record; prepare it again .*'tfrecord'"):
        resolve.resolve("numbers", tmp_path)
    for path in (tmp_path / "numbers" / "1.0.0").glob("*.array_record*"):
        pathlib.Path(path).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="as array_record"):
        resolve.resolve("numbers", tmp_path)
