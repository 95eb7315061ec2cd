"""ImageNet-21k as a TFDS builder over the files that image-net.org gives out; TFDS has none.

Importing this module registers the builder: `tfds.load("imagenet21k")` works afterwards.
"""

import io
import os
import pathlib
import re
import tarfile

import tensorflow_datasets as tfds
from absl import logging

from keras_vit.checkpoints.download.class_names import wordnet_ids
from keras_vit.data.images import decode

NUM_OFFICIAL_CLASSES = 21_843
_WORDNET_ID = re.compile(r"n\d{8}")
_ARCHIVES = ("winter21_whole.tar.gz", "winter21_whole.tar", "fall11_whole.tar")
_GZIP_MAGIC = b"\x1f\x8b"
_MAGIC_BYTES = 12

_DESCRIPTION = """
ImageNet-21k: the whole of ImageNet, one class for each WordNet id.  Two releases are given out:
winter 2021 (19,167 classes, without the people) and fall 2011 (about 21.8 thousand).
"""
_CITATION = """
@inproceedings{deng2009imagenet,
  author = {Deng, Jia and Dong, Wei and Socher, Richard and Li, Li-Jia and Li, Kai and Fei-Fei, Li},
  title = {ImageNet: A large-scale hierarchical image database},
  booktitle = {CVPR},
  year = {2009}
}
"""


def _stream_tar(file, mode="r|"):
    """Yields (name, file object) of the regular files of a tar archive, read once, in order."""
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in archive:
            if member.isreg():
                yield member.name, archive.extractfile(member)
            elif not member.isdir():
                raise ValueError(
                    "An archive may hold files and folders only. Received: a link or a device, "
                    f"{member.name!r}"
                )


def _wordnet_id(name):
    """The class of `n01440764`, `n01440764.tar` or `winter21_whole/n01440764.tar`; or None."""
    stem = pathlib.PurePosixPath(name).name.removesuffix(".tar")
    return stem if _WORDNET_ID.fullmatch(stem) else None


def iter_images(root):
    """Reads the images of a release, unpacking nothing to disk.

    Args:
        root: a folder with, for each class, a folder `<wnid>` of images or an archive `<wnid>.tar`;
            or with the whole release in one archive of these archives, `winter21_whole.tar.gz`,
            `winter21_whole.tar` or `fall11_whole.tar`.

    Yields:
        (WordNet id, file name, bytes).

    Raises:
        FileNotFoundError: for a folder without any of these.
        ValueError: for a class that is there twice or has no image, or an archive with links.
    """
    root = pathlib.Path(root)
    for name in _ARCHIVES:
        if (root / name).is_file():
            yield from _classes_of_archive(root / name)
            return
    entries = sorted(entry for entry in _entries(root) if _wordnet_id(entry.name))
    if not entries:
        raise FileNotFoundError(
            f"{root} must have a folder <wnid> or an archive <wnid>.tar for each class, or one of "
            f"{', '.join(_ARCHIVES)}"
        )
    for first, second in zip(entries, entries[1:], strict=False):
        if _wordnet_id(first.name) == _wordnet_id(second.name):
            raise ValueError(f"A class must be there once. Received: {first} and {second}")
    for entry in entries:
        if entry.is_dir():
            files = (
                (file.name, file.read_bytes()) for file in sorted(_entries(entry)) if file.is_file()
            )
            yield from _of_class(_wordnet_id(entry.name), entry, files)
        else:
            with open(entry, "rb") as file:
                yield from _of_class(_wordnet_id(entry.name), entry, _read_all(file))


def _entries(folder):
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _read_all(file):
    for name, member in _stream_tar(file):
        yield pathlib.PurePosixPath(name).name, member.read()


def _is_compressed(path):
    with open(path, "rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _classes_of_archive(path):
    seen = set()
    with open(path, "rb") as file:
        for name, member in _stream_tar(file, "r|gz" if _is_compressed(path) else "r|"):
            wordnet_id = _wordnet_id(name)
            if wordnet_id is None:
                raise ValueError(
                    f"{path} must hold an archive <wnid>.tar for each class. Received: {name!r}"
                )
            if wordnet_id in seen:
                raise ValueError(f"A class must be there once. Received: {name!r} again in {path}")
            seen.add(wordnet_id)
            yield from _of_class(wordnet_id, f"{path}/{name}", _read_all(member))


def _of_class(wordnet_id, place, files):
    num_images = 0
    for name, data in files:
        num_images += 1
        yield wordnet_id, name, data
    if not num_images:
        raise ValueError(f"A class must have images. Received: {place}, without any; remove it")


class Imagenet21k(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `imagenet21k`; one split, `full`, as in the official configurations.

    The labels of the config `official` are those of the official heads, 21,843 in the order of the
    official list of WordNet ids; classes of which the release has no folder have no image, and a
    folder that the list does not name is an error.  The config `folders` has the classes that are
    there, in the order of their ids.  Features: `image`, `label`, `file_name` ("<wnid>/<name>").
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="official", description="Labels of the official heads."),
        tfds.core.BuilderConfig(
            name="folders", description="Labels of the folders that are there."
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get an account at https://image-net.org/download-images and put winter21_whole.tar.gz, or the
    archives <wnid>.tar that it holds, or their folders <wnid>, into the folder `imagenet21k` there.
    For the config `official`, the list of WordNet ids beside the official checkpoints is fetched,
    or read from `imagenet21k_wordnet_ids.txt` in that folder.
    """

    def _info(self):
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://image-net.org/",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    # Its names are known once it is prepared, and stored with it.
                    "label": tfds.features.ClassLabel(),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        root = pathlib.Path(os.fspath(dl_manager.manual_dir)) / "imagenet21k"
        if not root.is_dir():
            raise AssertionError(f"{root} does not exist")
        names = self._class_names(root)
        self.info.features["label"].names = names
        return {"full": self._generate_examples(root, frozenset(names))}

    def _class_names(self, root):
        if self.builder_config.name == "official":
            path = root / "imagenet21k_wordnet_ids.txt"
            if not path.is_file():
                return list(wordnet_ids(NUM_OFFICIAL_CLASSES, download=True))
            names = path.read_text().split()
            if len(set(names)) != NUM_OFFICIAL_CLASSES or len(names) != NUM_OFFICIAL_CLASSES:
                raise ValueError(
                    f"{path} must name {NUM_OFFICIAL_CLASSES} classes. Received: {len(names)}"
                )
            return names
        archives = [root / name for name in _ARCHIVES if (root / name).is_file()]
        if archives:
            with open(archives[0], "rb") as file:
                # Seeks from header to header where it can.
                mode = "r|gz" if _is_compressed(archives[0]) else "r:"
                names = [name for name, _ in _stream_tar(file, mode)]
        else:
            names = [entry.name for entry in _entries(root)]
        return sorted({wordnet_id for name in names if (wordnet_id := _wordnet_id(name))})

    def _generate_examples(self, root, known):
        num_others = 0
        for wordnet_id, name, data in iter_images(root):
            if wordnet_id not in known:
                raise ValueError(
                    f"A class must be one of the official list. Received: {wordnet_id}; the config "
                    "imagenet21k/folders takes any"
                )
            if not decode.looks_like_image(data[:_MAGIC_BYTES]):
                # It is kept: what happens to it is said when it is read.
                num_others += 1
                logging.warning("%s/%s is not an image of a known format", wordnet_id, name)
            key = f"{wordnet_id}/{name}"
            yield key, {"image": io.BytesIO(data), "label": wordnet_id, "file_name": key}
        if num_others:
            logging.warning("%d files are not images of a known format", num_others)
