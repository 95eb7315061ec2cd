"""ImageNet and its relatives through TFDS's builders, over made-up archives in the true layouts."""

import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_vit.data.catalog import resolve, rows

# The first and the last of the thousand, and one between.
WORDNET_IDS = {"n01440764": 0, "n02123045": 281, "n15075141": 999}
NUM_TRAIN_OF_EACH = 40
NUM_VALIDATION = 6
REAL = [[5], [], [7, 8], [9], [], [11]]


def _tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def validation_name(k):
    return f"ILSVRC2012_val_{k + 1:08d}.JPEG"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, encode):
    """With the archives of ILSVRC 2012 where TFDS wants them."""
    root = tmp_path_factory.mktemp("imagenet")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)

    def jpeg(grey):
        return encode(np.full((3, 4, 3), grey, np.uint8), "JPEG", quality=100)

    classes = {
        f"{wordnet_id}.tar": _tar(
            {f"{wordnet_id}_{k}.JPEG": jpeg(k) for k in range(NUM_TRAIN_OF_EACH)}
        )
        for wordnet_id in WORDNET_IDS
    }
    (manual / "ILSVRC2012_img_train.tar").write_bytes(_tar(classes))
    validation = {validation_name(k): jpeg(40 * k) for k in range(NUM_VALIDATION)}
    (manual / "ILSVRC2012_img_val.tar").write_bytes(_tar(validation))
    (root / "real.json").write_text(json.dumps(REAL))
    return root


def test_imagenet2012_has_our_splits(data_dir):
    info = resolve.resolve("imagenet2012", data_dir, download=True)
    assert info.num_classes == 1_000
    assert info.split_sizes == {"train": 118, "validation": 2, "trainval": 120, "test": 6}
    assert {info.class_names[label] for label in WORDNET_IDS.values()} == set(WORDNET_IDS)
    assert np.bincount(info.source.labels("trainval")).tolist() == [
        NUM_TRAIN_OF_EACH if label in WORDNET_IDS.values() else 0 for label in range(1_000)
    ]
    whole = [image.numpy() for image, _ in info.source.stream("trainval")]
    parts = [
        image.numpy() for split in ("train", "validation") for image, _ in info.source.stream(split)
    ]
    assert parts == whole


def test_imagenet2012_slices_are_tfds_ones_or_refused(data_dir):
    info = resolve.resolve("imagenet2012", data_dir, download=True)
    assert info.num_examples("train[:10%]") == 12  # of the 120, as TFDS has it
    assert info.num_examples("test[:2]") == 2
    assert info.source.tfds_split("test[:2]") == "validation[:2]"
    with pytest.raises(
        ValueError, match=r"'validation' is 'train\[118:120\]' .* take 'validation'"
    ):
        info.num_examples("validation[:50%]")


def test_imagenet2012_with_a_version_of_its_own_is_the_same_row(data_dir):
    info = resolve.resolve("imagenet2012:5.1.0", data_dir, download=True)
    assert info.split_sizes["validation"] == 2


def test_imagenet2012_of_other_sizes_than_published_is_told(data_dir, caplog):
    resolve.resolve("imagenet2012", data_dir, download=True)
    assert "120 examples in 'train' of TFDS; 1281167 are published" in caplog.text


def test_imagenet2012_real_pads_its_labels(data_dir, monkeypatch):
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download", lambda *_: str(data_dir / "real.json")
    )
    info = resolve.resolve("imagenet2012_real", data_dir, download=True)
    assert info.evaluation == rows.ANY_LABEL
    assert info.split_sizes == {"test": NUM_VALIDATION}
    labels = info.source.labels("test")
    assert labels.shape == (NUM_VALIDATION, rows.MAX_LABELS)
    found = sorted([label for label in row if label >= 0] for row in labels.tolist())
    assert found == sorted(REAL)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_sets_with_some_classes_keep_imagenets_labels(
    tmp_path, data_dir, encode, monkeypatch, name
):
    root = tmp_path / "extracted" / name.replace("_", "-")
    for wordnet_id in ("n02123045", "n15075141"):
        (root / wordnet_id).mkdir(parents=True)
        image = encode(np.zeros((2, 2, 3), np.uint8), "JPEG")
        (root / wordnet_id / f"{wordnet_id}.jpg").write_bytes(image)
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda *_: str(root.parent)
    )
    info = resolve.resolve(name, tmp_path, download=True)
    assert info.num_classes == 1_000
    assert sorted(info.source.labels("test").tolist()) == [281, 999]


@pytest.mark.parametrize("variant", ["matched-frequency", "threshold-0.7", "topimages"])
def test_imagenet_v2_takes_each_variant(tmp_path, variant):
    with tfds.testing.mock_data(num_examples=3):
        info = resolve.resolve(f"imagenet_v2/{variant}", tmp_path, download=True)
        assert (info.num_classes, info.split_sizes) == (1_000, {"test": 3})
        assert len(list(info.source.stream("test"))) == 3


@pytest.mark.parametrize(
    "name", ["imagenet_sketch", "cifar10", "cifar100", "oxford_iiit_pet", "oxford_flowers102"]
)
def test_row_reads_what_tfds_has(tmp_path, name):
    row = resolve.names.get_dataset(name)
    with tfds.testing.mock_data(num_examples=3):
        info = resolve.resolve(name, tmp_path, download=True)
        assert info.num_classes == row.num_classes
        assert info.split_sizes == dict.fromkeys(row.splits, 3)
        for split in row.splits:
            assert len(list(info.source.stream(split))) == 3


def test_resolve_without_the_archives_says_what_belongs_where(tmp_path):
    for download in (False, True):
        with pytest.raises(ValueError, match="downloads/manual. .*ILSVRC2012_img_train.tar"):
            resolve.resolve("imagenet2012", tmp_path, download=download)
