"""What a row of the table of data sets says, and how its splits are cut out of TFDS's.

Nothing heavy is imported here, so that the table can be listed at once.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

SPLITS = ("train", "validation", "trainval", "test")

# How the accuracy of a data set is computed.
TOP_1 = "accuracy"
ANY_LABEL = "accuracy, any of an image's labels"
SHARED_CLASSES = "accuracy among the classes that occur"

# BiT's augmentation (arXiv:1912.11370v3, supplement F), a name in `AUGMENTATIONS`.
BIT = "bit_448_384"

# ReaL's images have at most nine.
MAX_LABELS = 16

_PART = re.compile(r"(\w+)(?:\[(?:(\d+)(%?))?:(\+?)(?:(\d+)(%?))?\])?")


def slices(spec, sizes):
    """Turns the specification of a split into bounds.

    A specification is a sum of parts of TFDS splits, each of the form `train`, `train[:800]`,
    `train[60%:80%]` or, for so many from a place on, `train[90%:+200]`.  A share is rounded down.

    Args:
        spec: the specification.
        sizes: the number of examples of each TFDS split.

    Returns:
        A list of (TFDS split, first, last + 1), counted from 0.

    Raises:
        ValueError: for a part that the split is too small for.

    >>> slices("train[:800]+train[90%:+200]", {"train": 3060})
    [('train', 0, 800), ('train', 2754, 2954)]
    """
    parts = []
    for part in re.split(r"\+(?=[a-z])", spec):
        split, start, start_share, count, stop, stop_share = _PART.fullmatch(part).groups()
        size = sizes[split]
        first = int(start or 0) * (size if start_share else 100) // 100
        if stop is None:
            last = size
        else:
            last = int(stop) * (size if stop_share else 100) // 100 + (first if count else 0)
        if not first < last <= size:
            raise ValueError(
                f"{part!r} needs more examples than there are. Received: {size} in {split!r}"
            )
        parts.append((split, first, last))
    return parts


def padded_labels(labels):
    """Fills the labels of one image up with -1.

    Args:
        labels: int64 (n,), n at most `MAX_LABELS`; none at all is allowed.

    Returns:
        int64 (MAX_LABELS,).
    """
    import tensorflow as tf

    labels = tf.pad(labels, [[0, MAX_LABELS - tf.size(labels)]], constant_values=-1)
    return tf.ensure_shape(labels, (MAX_LABELS,))


def labels_of_validation_file(file_name, labels):
    """Finds a validation image of ImageNet in a table in the order of the file names.

    Args:
        file_name: scalar string, such as "ILSVRC2012_val_00000001.JPEG", the first.
        labels: int64 (N, K).

    Returns:
        int64 (K,).

    Raises:
        tf.errors.InvalidArgumentError: for another name.
    """
    import tensorflow as tf

    number = tf.strings.regex_replace(file_name, r"^ILSVRC2012_val_(\d{8})\.JPEG$", r"\1")
    index = tf.strings.to_number(number, tf.int64) - 1
    with tf.control_dependencies([tf.debugging.assert_non_negative(index)]):
        return tf.gather(tf.constant(labels), index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One row: a data set under the name that `keras_vit` knows it by.

    Args:
        name: our name.
        tfds: TFDS's name, with the version that the results of the source were obtained with.
        num_classes: the number of classes; None where it depends on what is there.
        whole: the published number of examples of each TFDS split; empty where none is published.
        splits: `train` (without the official validation part), `validation` (that part), `trainval`
            (both) and `test`, those that there are -> what they are of TFDS's splits, see `slices`.
        source: where splits and labels are from.
        evaluation: `TOP_1`, `ANY_LABEL` or `SHARED_CLASSES`.
        image_key: the feature that is the image.
        label_key: the feature that the label is or is made from.
        label_fields: the fields of a nested feature that `label` needs.
        label: from that feature to the int64 label, see `TfdsSource`; None is the identity.
        pixels: from the stored image to the picture; None is the identity.
        class_names: where TFDS has no names for the classes.
        augmentation: what keeps its labels true, of BiT's resize, crop and flip.
        builder: the module that defines the TFDS builder if TFDS has none.
    """

    name: str
    tfds: str
    num_classes: int | None
    whole: Mapping[str, int]
    splits: Mapping[str, str]
    source: str
    evaluation: str = TOP_1
    image_key: str = "image"
    label_key: str = "label"
    label_fields: tuple[str, ...] = ()
    label: Callable | None = None
    pixels: Callable | None = None
    class_names: tuple[str, ...] | None = None
    augmentation: str = BIT
    builder: str | None = None

    def tfds_slices(self, sizes):
        """Our names of the splits -> slices in TFDS's notation.

        Args:
            sizes: the number of examples of each TFDS split; splits of which nothing is there (a
                data set may be prepared in part) are left out.

        Raises:
            ValueError: for a split that is too small for what is cut from it.
        """
        found = {}
        for split, spec in self.splits.items():
            if all(part in sizes for part in re.findall(r"[a-z]+", spec)):
                found[split] = "+".join(
                    name if (first, last) == (0, sizes[name]) else f"{name}[{first}:{last}]"
                    for name, first, last in slices(spec, sizes)
                )
        return found

    @property
    def sizes(self):
        """Our names of the splits -> the published number of examples; empty if unknown."""
        if not self.whole:
            return {}
        return {
            split: sum(last - first for _, first, last in slices(spec, self.whole))
            for split, spec in self.splits.items()
        }


def _minival(per_cent):
    """Splits of a set that has a `train` and a `test`, with its last part for choosing rates."""
    return {
        "train": f"train[:{per_cent}%]",
        "validation": f"train[{per_cent}%:]",
        "trainval": "train",
        "test": "test",
    }


_PAPER = "arXiv:2010.11929, section 4.1 and appendix B.1.1; big_vision configs/transfer.py"
_IMAGENET = "arXiv:1409.0575; " + _PAPER
_DIGITS = {"train": "train", "validation": "validation", "trainval": "train+validation"}

ROWS = (
    Dataset(
        name="imagenet2012",
        tfds="imagenet2012:5.*.*",
        num_classes=1_000,
        whole={"train": 1_281_167, "validation": 50_000},
        splits=_minival(99) | {"test": "validation"},
        source=_IMAGENET,
    ),
    Dataset(
        name="imagenet2012_real",
        tfds="imagenet2012_real:1.*.*",
        num_classes=1_000,
        whole={"validation": 50_000},
        splits={"test": "validation"},
        source="arXiv:2006.07159, its 46,837 images that have a label",
        evaluation=ANY_LABEL,
        label_key="real_label",
        label=padded_labels,
    ),
    Dataset(
        name="imagenet21k",
        tfds="imagenet21k/official:1.*.*",
        num_classes=21_843,
        whole={},
        # big_vision configs/vit_i21k.py
        splits={"train": "full[51200:]", "validation": "full[:51200]", "trainval": "full"},
        source="image-net.org, winter-2021 release, labels in the order of the official heads",
        builder="keras_vit.data.catalog.imagenet21k",
    ),
    Dataset(
        name="imagenet21k/folders",
        tfds="imagenet21k/folders:1.*.*",
        num_classes=None,
        whole={},
        splits={"train": "full[51200:]", "validation": "full[:51200]", "trainval": "full"},
        source="image-net.org, its own classes (19,167 in winter 2021) in the order of their ids",
        builder="keras_vit.data.catalog.imagenet21k",
    ),
    *(
        Dataset(
            name=f"imagenet_v2/{variant}",
            tfds=f"imagenet_v2/{variant}",
            num_classes=1_000,
            whole={"test": 10_000},
            splits={"test": "test"},
            source="arXiv:1902.10811",
        )
        for variant in ("matched-frequency", "threshold-0.7", "topimages")
    ),
    Dataset(
        name="imagenet_a",
        tfds="imagenet_a:0.*.*",
        num_classes=1_000,
        whole={"test": 7_500},
        splits={"test": "test"},
        source="arXiv:1907.07174, 200 of the 1,000 classes",
        evaluation=SHARED_CLASSES,
    ),
    Dataset(
        name="imagenet_r",
        tfds="imagenet_r:0.*.*",
        num_classes=1_000,
        whole={"test": 30_000},
        splits={"test": "test"},
        source="arXiv:2006.16241, 200 of the 1,000 classes",
        evaluation=SHARED_CLASSES,
    ),
    Dataset(
        name="imagenet_sketch",
        tfds="imagenet_sketch:1.*.*",
        num_classes=1_000,
        whole={"test": 50_889},
        splits={"test": "test"},
        source="arXiv:1905.13549",
    ),
    Dataset(
        name="objectnet",
        tfds="objectnet:1.*.*",
        num_classes=1_000,
        whole={"test": 18_574},
        splits={"test": "test"},
        source="objectnet.dev, version 1.0, its 113 classes that ImageNet shares",
        evaluation=SHARED_CLASSES,
        label_key="imagenet_labels",
        label=padded_labels,
        builder="keras_vit.data.catalog.objectnet",
    ),
    Dataset(
        name="cifar10",
        tfds="cifar10:3.*.*",
        num_classes=10,
        whole={"train": 50_000, "test": 10_000},
        splits=_minival(98),
        source=_PAPER,
    ),
    Dataset(
        name="cifar100",
        tfds="cifar100:3.*.*",
        num_classes=100,
        whole={"train": 50_000, "test": 10_000},
        splits=_minival(98),
        source=_PAPER,
    ),
    Dataset(
        name="oxford_iiit_pet",
        tfds="oxford_iiit_pet:3.*.*",
        num_classes=37,
        whole={"train": 3_680, "test": 3_669},
        splits=_minival(90),
        source=_PAPER,
    ),
    Dataset(
        name="oxford_flowers102",
        tfds="oxford_flowers102:2.*.*",
        num_classes=102,
        whole={"train": 1_020, "validation": 1_020, "test": 6_149},
        splits=_minival(90),
        source=_PAPER + "; TFDS's own `validation` is not used",
    ),
    Dataset(
        name="fashion_mnist",
        tfds="fashion_mnist_files:3.*.*",
        num_classes=10,
        whole={"train": 60_000, "test": 10_000},
        splits=_minival(90),
        source="arXiv:1708.07747; Debian's package dataset-fashion-mnist, or a download",
        builder="keras_vit.data.catalog.fashion_mnist",
    ),
    *(
        Dataset(
            name=f"digits/{config}",
            tfds=f"digits/{config}",
            num_classes=num_classes,
            whole=dict(zip(("train", "validation", "test"), whole, strict=True)),
            splits=_DIGITS | {"test": "test"},
            source="scikit-learn's load_digits; embedded, nothing is downloaded",
            builder="keras_vit.data.catalog.digits",
        )
        for config, num_classes, whole in (
            ("all", 10, (1_074, 359, 364)),
            ("upstream", 5, (538, 180, 183)),
            ("downstream", 5, (536, 179, 181)),
        )
    ),
)
