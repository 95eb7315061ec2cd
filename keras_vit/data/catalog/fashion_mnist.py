"""Fashion-MNIST (arXiv:1708.07747) as a TFDS builder, from Debian's package or from its home.

The package `dataset-fashion-mnist` holds the real files, 60,000 + 10,000 images, compressed anew,
so that their bytes are not those that TFDS knows the checksums of.  Importing this module registers
the builder `fashion_mnist_files`.
"""

import gzip
import pathlib

import numpy as np
import tensorflow_datasets as tfds

# Where `apt-get install dataset-fashion-mnist` puts them.
PACKAGE_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
_FILES = {"train": "train", "test": "t10k"}
_SIZES = {"train": 60_000, "test": 10_000}
_IMAGES, _LABELS = 0x803, 0x801  # unsigned bytes in 3 dimensions and in 1


def read_idx(path, magic):
    """Reads a compressed file of unsigned bytes in the IDX format.

    Args:
        path: `pathlib.Path` of the file.
        magic: the number that it must begin with: 0x800 and its number of dimensions.

    Returns:
        uint8 array.

    Raises:
        ValueError: for a file of another kind, or of another length than its header says.
        OSError: for one that cannot be read.
    """
    with gzip.open(path) as file:
        contents = file.read()
    num_dimensions = magic & 0xFF
    header = np.frombuffer(contents[: 4 * (1 + num_dimensions)], ">u4")
    shape = tuple(map(int, header[1:]))
    values = np.frombuffer(contents, np.uint8, offset=header.nbytes)
    if len(shape) != num_dimensions or header[0] != magic or values.size != np.prod(shape):
        raise ValueError(
            f"an IDX file must begin with {magic:#x} and its shape, and be as long as that says. "
            f"Received: {path} with {header.tolist()} and {values.size} values"
        )
    return values.reshape(shape)


class FashionMnistFiles(tfds.image_classification.FashionMNIST):
    """TFDS builder `fashion_mnist_files`: TFDS's own, over the package's files if there.

    Features: `image` (28, 28, 1) uint8 in [0, 255] and `label`, a `ClassLabel` of ten names.
    """

    VERSION = tfds.core.Version("3.0.1")
    url_infos = tfds.image_classification.FashionMNIST.url_infos

    @property
    def is_local(self):
        """Whether the package is installed, so that nothing is downloaded."""
        return PACKAGE_FOLDER.is_dir()

    def _split_generators(self, dl_manager):
        if not self.is_local:
            return super()._split_generators(dl_manager)
        return {split: self._generate_from_package(split) for split in _FILES}

    def _generate_from_package(self, split):
        prefix = PACKAGE_FOLDER / _FILES[split]
        images = read_idx(prefix.with_name(f"{prefix.name}-images-idx3-ubyte.gz"), _IMAGES)
        labels = read_idx(prefix.with_name(f"{prefix.name}-labels-idx1-ubyte.gz"), _LABELS)
        if not len(images) == len(labels) == _SIZES[split]:
            raise ValueError(
                f"Fashion-MNIST has {_SIZES[split]} images in {split!r}. Received: {len(images)} "
                f"images and {len(labels)} labels in {PACKAGE_FOLDER}"
            )
        for index in range(len(images)):
            yield index, {"image": images[index][..., np.newaxis], "label": int(labels[index])}
