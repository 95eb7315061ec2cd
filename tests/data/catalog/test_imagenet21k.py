"""The builder over made-up files in the three layouts of image-net.org's releases."""

import dataclasses
import io
import tarfile

import numpy as np
import pytest

from keras_vit.data.catalog import imagenet21k, resolve

WORDNET_IDS = [f"n{9_000_000 + 7 * k:08d}" for k in range(imagenet21k.NUM_OFFICIAL_CLASSES)]
# Class -> file names; the release has no folder of most classes, as winter 2021 has not.
RELEASE = {
    WORDNET_IDS[0]: ["n_1.JPEG", "n_2.JPEG"],
    WORDNET_IDS[5]: ["n_7.JPEG"],
    WORDNET_IDS[-1]: ["n_3.JPEG", "n_4.JPEG"],
}


def _tar(members, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="module")
def images(encode):
    """Class -> file name -> bytes."""
    numbers = iter(range(9))
    return {
        wordnet_id: {
            name: encode(np.full((4, 5, 3), next(numbers) * 20, np.uint8), "JPEG") for name in names
        }
        for wordnet_id, names in RELEASE.items()
    }


def write_release(root, images, layout):
    root.mkdir(parents=True)
    tars = {f"{wordnet_id}.tar": _tar(files) for wordnet_id, files in images.items()}
    if layout == "folders":
        for wordnet_id, files in images.items():
            (root / wordnet_id).mkdir()
            for name, data in files.items():
                (root / wordnet_id / name).write_bytes(data)
    elif layout == "tars":
        for name, data in tars.items():
            (root / name).write_bytes(data)
    else:
        members = {f"winter21_whole/{name}": data for name, data in tars.items()}
        data = _tar(members, "w:gz" if layout.endswith(".gz") else "w")
        (root / layout).write_bytes(data)


@pytest.mark.parametrize(
    "layout", ["folders", "tars", "winter21_whole.tar", "winter21_whole.tar.gz"]
)
def test_iter_images_reads_every_layout(tmp_path, images, layout):
    write_release(tmp_path / "root", images, layout)
    found = [*imagenet21k.iter_images(tmp_path / "root")]
    assert found == [
        (wordnet_id, name, data)
        for wordnet_id, files in images.items()
        for name, data in files.items()
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, images):
    """A data_dir in which both configurations are prepared."""
    data_dir = tmp_path_factory.mktemp("data")
    root = data_dir / "downloads" / "manual" / "imagenet21k"
    write_release(root, images, "winter21_whole.tar.gz")
    (root / "imagenet21k_wordnet_ids.txt").write_text("\n".join(WORDNET_IDS) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        # The five images are fewer than the official validation part.
        for name in ("imagenet21k", "imagenet21k/folders"):
            row = resolve.names.get_dataset(name)
            splits = {"train": "full[2:]", "validation": "full[:2]", "trainval": "full"}
            row = dataclasses.replace(row, splits=splits)
            patch.setitem(resolve.names._ROWS, name, row)
        return {
            name: resolve.resolve(name, data_dir, download=True)
            for name in ("imagenet21k", "imagenet21k/folders")
        }


def test_official_configuration_has_the_labels_of_the_official_heads(prepared, images):
    info = prepared["imagenet21k"]
    assert info.class_names == tuple(WORDNET_IDS)
    assert info.num_classes == 21_843
    assert info.split_sizes == {"train": 3, "validation": 2, "trainval": 5}
    expected = {
        (data, WORDNET_IDS.index(wordnet_id))
        for wordnet_id, files in images.items()
        for data in files.values()
    }
    assert {(x.numpy(), int(y)) for x, y in info.source.stream("trainval")} == expected
    parts = [*info.source.stream("validation"), *info.source.stream("train")]
    assert [x.numpy() for x, _ in parts] == [x.numpy() for x, _ in info.source.stream("trainval")]


def test_folders_configuration_has_the_classes_that_are_there(prepared):
    info = prepared["imagenet21k/folders"]
    assert info.class_names == tuple(RELEASE)
    assert sorted(info.source.labels("trainval").tolist()) == [0, 0, 1, 2, 2]


def test_official_splits_are_big_visions():
    row = resolve.names.get_dataset("imagenet21k")
    assert row.tfds_slices({"full": 13_000_000}) == {
        "train": "full[51200:13000000]",
        "validation": "full[0:51200]",
        "trainval": "full",
    }
    with pytest.raises(ValueError, match=r"'full\[51200:\]' needs more .* Received: 5"):
        row.tfds_slices({"full": 5})


def test_official_configuration_refuses_a_class_that_the_list_does_not_name(tmp_path, images):
    root = tmp_path / "downloads" / "manual" / "imagenet21k"
    write_release(root, images | {"n00000001": {"a.JPEG": b"\xff\xd8\xff"}}, "tars")
    (root / "imagenet21k_wordnet_ids.txt").write_text("\n".join(WORDNET_IDS))
    with pytest.raises(ValueError, match="official list. Received: n00000001; .*/folders takes"):
        resolve.resolve("imagenet21k", tmp_path, download=True)


def test_resolve_without_files_says_what_belongs_where(tmp_path):
    for download in (False, True):
        with pytest.raises(ValueError, match="manual.*winter21_whole.tar.gz"):
            resolve.resolve("imagenet21k", tmp_path, download=download)


def test_iter_images_refuses_what_is_not_a_release(tmp_path, images):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(FileNotFoundError, match="must have a folder <wnid> or an archive"):
        [*imagenet21k.iter_images(root)]
    (root / WORDNET_IDS[0]).mkdir()
    with pytest.raises(ValueError, match="must have images. Received: .*n09000000"):
        [*imagenet21k.iter_images(root)]
    (root / f"{WORDNET_IDS[0]}.tar").write_bytes(_tar({"a.JPEG": b"x"}))
    with pytest.raises(ValueError, match="must be there once. Received: .*n09000000"):
        [*imagenet21k.iter_images(root)]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("n09000007.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (root / "n09000007.tar").write_bytes(file.getvalue())
    (root / f"{WORDNET_IDS[0]}.tar").unlink()
    (root / WORDNET_IDS[0] / "a.JPEG").write_bytes(b"x")
    with pytest.raises(ValueError, match="files and folders only. Received: a link"):
        [*imagenet21k.iter_images(root)]
    whole = _tar({"winter21_whole/README": b"x"})
    (root / "winter21_whole.tar").write_bytes(whole)
    with pytest.raises(ValueError, match="must hold an archive <wnid>.tar .*README"):
        [*imagenet21k.iter_images(root)]


def test_iter_images_of_a_cut_archive_raises(tmp_path, images):
    write_release(tmp_path / "root", images, "winter21_whole.tar")
    path = tmp_path / "root" / "winter21_whole.tar"
    # Within the data of the second class.
    path.write_bytes(path.read_bytes()[:12_000])
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        [*imagenet21k.iter_images(tmp_path / "root")]
