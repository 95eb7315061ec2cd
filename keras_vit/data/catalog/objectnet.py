"""ObjectNet as a TFDS builder over the folder that its makers give out; TFDS has none.

Only the classes that ImageNet shares are taken, and an image's labels are ImageNet's, all that the
makers' own mapping names.  Importing this module registers the builder.
"""

import json
import os
import pathlib

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from keras_vit.data.images import decode

# The makers put a red border around each image, so that it is not taken for training.
BORDER = 2
NUM_SHARED_CLASSES = 113
_FOLDER = "objectnet-1.0"

_DESCRIPTION = """
ObjectNet: photographs of objects from odd sides in odd places, for tests only.  The 113 of its 313
classes that ImageNet has too, labelled by ImageNet's classes, without the red border.
"""
_CITATION = """
@inproceedings{barbu2019objectnet,
  author = {Barbu, Andrei and Mayo, David and Alverio, Julian and Luo, William and Wang, Christopher
    and Gutfreund, Dan and Tenenbaum, Josh and Katz, Boris},
  title = {ObjectNet: A large-scale bias-controlled dataset for pushing the limits of object
    recognition models},
  booktitle = {NeurIPS},
  year = {2019}
}
"""


def read_mappings(folder):
    """Reads which ImageNet classes each of ObjectNet's folders is, as its makers say.

    Args:
        folder: the folder `mappings` of ObjectNet 1.0.

    Returns:
        A dict from the name of an image folder to a sorted tuple of ImageNet classes, counted from
        0 in the order of the WordNet ids; folders that ImageNet does not share are not in it.

    Raises:
        ValueError: for a mapping that names what the other files do not know.
        OSError: for a file that is not there.
    """
    folder = pathlib.Path(folder)

    def load(name):
        return json.loads((folder / name).read_text(encoding="utf-8"))

    # ImageNet's words, one class a line -> the line; and the class -> that line.
    words = (folder / "imagenet_to_label_2012_v2").read_text(encoding="utf-8").splitlines()
    lines = {label.strip(): line for line, label in enumerate(words)}
    classes = {line: int(label) for label, line in load("pytorch_to_imagenet_2012_id.json").items()}
    folders = {label: name for name, label in load("folder_to_objectnet_label.json").items()}
    mapping = {}
    for label, shared in load("objectnet_to_imagenet_1k.json").items():
        try:
            mapping[folders[label]] = tuple(
                sorted(classes[lines[name]] for name in shared.split("; "))
            )
        except KeyError as error:
            raise ValueError(
                f"The mappings of ObjectNet must fit together. Received: {label!r}: {shared!r} in "
                f"{folder}, and {error} is not known; unpack ObjectNet again."
            ) from error
    return mapping


def without_border(image):
    """uint8 (H, W, 3) -> uint8 (H - 4, W - 4, 3)."""
    return image[BORDER:-BORDER, BORDER:-BORDER]


class Objectnet(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `objectnet`; one split, `test`.

    Features: `image`, `imagenet_labels` (all that count as right), `file_name` ("<folder>/<name>").
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get objectnet-1.0.zip from https://objectnet.dev and unpack it there, with the password that is
    given on that page, to the folder `objectnet-1.0` with its `images` and `mappings`.
    """

    def _info(self):
        names_file = tfds.core.tfds_path("datasets/imagenet2012/labels.txt")
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://objectnet.dev/",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "imagenet_labels": tfds.features.Sequence(
                        tfds.features.ClassLabel(names_file=names_file)
                    ),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        root = pathlib.Path(os.fspath(dl_manager.manual_dir)) / _FOLDER
        if not root.is_dir():
            raise AssertionError(f"{root} does not exist")
        return {"test": self._generate_examples(root)}

    def _generate_examples(self, root):
        mapping = read_mappings(root / "mappings")
        if len(mapping) != NUM_SHARED_CLASSES:
            logging.warning(
                "%s maps %d classes; ObjectNet 1.0 has %d that ImageNet shares",
                *(root / "mappings", len(mapping), NUM_SHARED_CLASSES),
            )
        for folder, labels in sorted(mapping.items()):
            paths = sorted(p for p in (root / "images" / folder).iterdir() if p.suffix == ".png")
            if not paths:
                raise ValueError(f"A class must have images. Received: {root / 'images' / folder}")
            for path in paths:
                key = f"{folder}/{path.name}"
                image = decode.decode_image(tf.io.read_file(os.fspath(path)), name=os.fspath(path))
                yield (
                    key,
                    {
                        "image": without_border(image.numpy()),
                        "imagenet_labels": labels,
                        "file_name": key,
                    },
                )
