import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_vit.data.catalog import resolve


def test_resolve_digits_gives_classes_and_sizes(upstream):
    assert upstream.name == "digits/upstream"
    assert upstream.class_names == ("0", "1", "2", "3", "4")
    assert upstream.num_classes == 5
    assert upstream.split_sizes == {
        "train": 538,
        "validation": 180,
        "trainval": 718,
        "test": 183,
    }
    assert upstream.num_examples("train") == 538
    assert upstream.num_examples("train[:50%]") == 269


def test_resolve_folder_gives_classes_and_sizes(image_folder):
    info = resolve.resolve(image_folder)
    assert info.class_names == ("cat", "dog")
    assert info.split_sizes == {"train": 9, "test": 3}


def test_resolve_tfds_image_folder_that_was_prepared_is_read(tmp_path, upstream):
    class Squares(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images of several sizes, with a further feature."""

        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "id": tfds.features.Text(),
                        "picture": tfds.features.Image(),
                        "kind": tfds.features.ClassLabel(names=["small", "large"]),
                    }
                )
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k in range(1, 5):
                picture = np.full((k, k, 3), k, np.uint8)
                yield k, {"id": str(k), "picture": picture, "kind": int(k > 2)}

    Squares(data_dir=tmp_path).download_and_prepare()
    info = resolve.resolve("squares", tmp_path)
    assert info.class_names == ("small", "large")
    assert info.split_sizes == {"train": 4}
    assert (info.source.image_key, info.source.label_key) == ("picture", "kind")


def test_resolve_unknown_name_lists_close_ones(digits_dir):
    with pytest.raises(ValueError, match="Received: 'cifar11'; close names: .*cifar10"):
        resolve.resolve("cifar11", digits_dir)
    with pytest.raises(ValueError, match="Received: 'digit'; close names: .*digits"):
        resolve.resolve("digit", digits_dir)
    with pytest.raises(ValueError, match="no known name is close"):
        resolve.resolve("qqqqqqqqqqqq", digits_dir)
    with pytest.raises(ValueError, match="one of .*'upstream'.*Received: 'digits/up'"):
        resolve.resolve("digits/up", digits_dir)


def test_resolve_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder. Received: .*nothing"):
        resolve.resolve(tmp_path / "nothing")


def test_resolve_without_download_does_not_download(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was started")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(ValueError, match="'cifar10', not found .*`download=True`"):
        resolve.resolve("cifar10", tmp_path)
    with pytest.raises(AssertionError, match="a download was started"):
        resolve.resolve("cifar10", tmp_path, download=True)


def test_num_examples_unknown_split_raises(upstream, image_folder):
    with pytest.raises(ValueError, match="Received: 'trian'; did you mean 'train'"):
        upstream.num_examples("trian")
    folder = resolve.resolve(image_folder)
    with pytest.raises(ValueError, match=r"one of \['test', 'train'\].*Received: 'validation'"):
        folder.num_examples("validation")
    with pytest.raises(ValueError, match=r"Received: 'train\[:50%\]'"):
        folder.num_examples("train[:50%]")


def test_stream_yields_encoded_images_and_labels_of_our_splits(upstream):
    source = dataclasses.replace(upstream.source, splits={"half": "train[:50%]"})
    stream = source.stream("half")
    assert stream.element_spec == (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64))
    assert int(stream.cardinality()) == source.num_examples("half") == 269
    half, whole = list(stream), list(source.stream("train"))
    assert [(image, int(label)) for image, label in half] == [
        (image, int(label)) for image, label in whole[:269]
    ]
    assert tf.io.decode_png(half[0][0]).shape == source.image_shape == (8, 8, 1)
    assert 0 < source.num_bytes("half") < source.num_bytes("train")


def test_stream_of_a_split_that_is_cut_raises(upstream, monkeypatch):
    monkeypatch.setattr(resolve.TfdsSource, "_num_written", lambda self, split: 184)
    with pytest.raises(tf.errors.FailedPreconditionError, match="184 elements but contained only"):
        list(upstream.source.stream("test"))


def test_resolve_finds_our_builders_in_a_fresh_process(digits_dir):
    code = (
        "from keras_vit.data.catalog import resolve; "
        f"print(resolve.resolve('digits', {str(digits_dir)!r}).num_classes)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "10\n"


def test_resolve_name_of_the_table_comes_before_a_folder(tmp_path, monkeypatch):
    (tmp_path / "vtab" / "dtd" / "train" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be prepared .* Received: 'vtab/dtd'"):
        resolve.resolve("vtab/dtd", tmp_path / "data")
    with pytest.raises(ValueError, match="A class must have images"):
        resolve.resolve("./vtab/dtd")


class OldPets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A version that TFDS no longer makes, of so many classes."""

    VERSION = tfds.core.Version("3.2.0")
    name = "oxford_iiit_pet"

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(num_classes=37),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}

    def _generate_examples(self):
        for k in range(20):
            yield k, {"image": np.full((2, 2, 3), k, np.uint8), "label": k}


def test_resolve_prefers_the_pinned_version_on_disk(tmp_path, caplog):
    OldPets(data_dir=tmp_path).download_and_prepare()
    info = resolve.resolve("oxford_iiit_pet", tmp_path)
    assert str(info.source.builder.version) == "3.2.0"
    assert info.split_sizes == {"train": 18, "validation": 2, "trainval": 20, "test": 20}
    assert "cannot make it" not in caplog.text


def test_resolve_without_the_pinned_version_takes_the_nearest_and_says_so(tmp_path, caplog):
    with tfds.testing.mock_data(num_examples=2):
        info = resolve.resolve("oxford_iiit_pet", tmp_path, download=True)
    assert str(info.source.builder.version) == "4.0.0"
    assert "oxford_iiit_pet:3.*.* is not there and TFDS cannot make it" in caplog.text
    with pytest.raises(ValueError, match="such as oxford_iiit_pet/4.0.0. Received: .*:9.9.9"):
        resolve.resolve("oxford_iiit_pet:9.9.9", tmp_path)


def test_resolve_with_another_number_of_classes_raises(tmp_path, monkeypatch):
    OldPets(data_dir=tmp_path).download_and_prepare()
    row = dataclasses.replace(resolve.names.get_dataset("oxford_iiit_pet"), num_classes=38)
    monkeypatch.setitem(resolve.names._ROWS, row.name, row)
    with pytest.raises(ValueError, match="must have 38 classes. Received: 37 in .*3.2.0"):
        resolve.resolve("oxford_iiit_pet", tmp_path)
