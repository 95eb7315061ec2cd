"""The 19 tasks of VTAB-1k (arXiv:1910.04867): their splits and what their labels are made from.

The sizes, versions and label maps are those of google-research/task_adaptation; of each task 800
images are for training (the first of TFDS's `train`) and 200 for choosing hyper-parameters (the
first of the task's validation region), and the final training is on these 1,000.
"""

from keras_vit.data.catalog.rows import BIT, Dataset

# Bin edges; a distance is in the bin of the last edge that is below it.
CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
# What stands for the distance where no vehicle is in sight, in metres.
_NO_VEHICLE = 1000.0
# Car, Van and Truck come first among KITTI's types.
_NUM_VEHICLE_TYPES = 3


def last_edge_below(value, edges):
    """The index of the last edge that is strictly below a value.

    Args:
        value: float32 scalar.
        edges: rising numbers.

    Returns:
        int64 scalar, -1 where the value is not above the first edge.

    >>> [int(last_edge_below(value, (0.0, 8.0, 8.5))) for value in (0.0, 8.0, 8.1, 9.0)]
    [-1, 0, 1, 2]
    """
    import tensorflow as tf

    below = tf.constant(edges, tf.float32) < value
    return tf.reduce_sum(tf.cast(below, tf.int64)) - 1


def clevr_count(objects):
    """Number of objects less 3: CLEVR's pictures have 3 to 10."""
    import tensorflow as tf

    return tf.size(objects["size"], tf.int64) - 3


def clevr_distance(objects):
    """Bin in `CLEVR_DISTANCES` of the object closest to the camera."""
    import tensorflow as tf

    return last_edge_below(tf.reduce_min(objects["pixel_coords"][:, 2]), CLEVR_DISTANCES)


def kitti_distance(objects):
    """Bin in `KITTI_DISTANCES` of the closest car, van or truck; the last one if there is none."""
    import tensorflow as tf

    is_vehicle = objects["type"] < _NUM_VEHICLE_TYPES
    distances = tf.boolean_mask(objects["location"][:, 2], is_vehicle)
    return last_edge_below(
        tf.reduce_min(tf.pad(distances, [[0, 1]], constant_values=_NO_VEHICLE)), KITTI_DISTANCES
    )


def dsprites_location(label):
    """32 places -> 16."""
    return label // 2


def dsprites_orientation(label):
    """40 angles -> 16: floor(label / 2.5)."""
    return label * 2 // 5


def dsprites_pixels(image):
    """uint8 (H, W, 1) in {0, 1} -> uint8 (H, W, 3) in {0, 255}."""
    import tensorflow as tf

    return tf.repeat(image, 3, axis=-1) * 255


def _ranges(edges, unit=""):
    pairs = zip(edges, edges[1:], strict=False)
    return tuple(f"{low:g} to {high:g}{unit}" for low, high in pairs)


# Where a mirror image or a crop would make the label untrue (arXiv:1912.11370v3, supplement F).
_AUGMENTATIONS = {
    "clevr_count": "flip",
    "clevr_distance": "flip",
    "dmlab": "flip",
    "kitti_distance": "flip",
    "dsprites_location": "none",
    "dsprites_orientation": "bit_448_384_no_flip",
    "smallnorb_azimuth": "bit_448_384_no_flip",
}


def _task(name, tfds, *, num_classes, validation="validation[:200]", test="test", **fields):
    return Dataset(
        name=f"vtab/{name}",
        tfds=tfds,
        num_classes=num_classes,
        splits={
            "train": "train[:800]",
            "validation": validation,
            "trainval": f"train[:800]+{validation}",
            "test": test,
        },
        augmentation=_AUGMENTATIONS.get(name, BIT),
        source="arXiv:1910.04867 and google-research/task_adaptation; 800 + 200 images",
        **fields,
    )


ROWS = (
    # Natural.
    _task(
        "caltech101",
        "caltech101:3.*.*",
        num_classes=102,
        whole={"train": 3_060, "test": 6_084},
        validation="train[90%:+200]",
    ),
    _task(
        "cifar100",
        "cifar100:3.*.*",
        num_classes=100,
        whole={"train": 50_000, "test": 10_000},
        validation="train[90%:+200]",
    ),
    _task(
        "dtd",
        "dtd:3.*.*",
        num_classes=47,
        whole={"train": 1_880, "validation": 1_880, "test": 1_880},
    ),
    _task(
        "oxford_flowers102",
        "oxford_flowers102:2.*.*",
        num_classes=102,
        whole={"train": 1_020, "validation": 1_020, "test": 6_149},
    ),
    _task(
        "oxford_iiit_pet",
        "oxford_iiit_pet:3.*.*",
        num_classes=37,
        whole={"train": 3_680, "test": 3_669},
        validation="train[80%:+200]",
    ),
    _task(
        "sun397",
        "sun397/tfds:4.*.*",
        num_classes=397,
        whole={"train": 76_128, "validation": 10_875, "test": 21_750},
    ),
    _task(
        "svhn",
        "svhn_cropped:3.*.*",
        num_classes=10,
        whole={"train": 73_257, "test": 26_032},
        validation="train[90%:+200]",
    ),
    # Specialized.
    _task(
        "patch_camelyon",
        "patch_camelyon:2.*.*",
        num_classes=2,
        whole={"train": 262_144, "validation": 32_768, "test": 32_768},
    ),
    _task(
        "eurosat",
        "eurosat/rgb:2.*.*",
        num_classes=10,
        whole={"train": 27_000},
        validation="train[60%:+200]",
        test="train[80%:]",
    ),
    _task(
        "resisc45",
        "resisc45:3.*.*",
        num_classes=45,
        whole={"train": 31_500},
        validation="train[60%:+200]",
        test="train[80%:]",
    ),
    _task(
        "diabetic_retinopathy",
        "diabetic_retinopathy_detection/btgraham-300:3.*.*",
        num_classes=5,
        whole={"train": 35_126, "validation": 10_906, "test": 42_670},
    ),
    # Structured.
    _task(
        "clevr_count",
        "clevr:3.*.*",
        num_classes=8,
        whole={"train": 70_000, "validation": 15_000},
        validation="train[90%:+200]",
        test="validation",
        label_key="objects",
        label_fields=("size",),
        label=clevr_count,
        class_names=tuple(f"{count} objects" for count in range(3, 11)),
    ),
    _task(
        "clevr_distance",
        "clevr:3.*.*",
        num_classes=6,
        whole={"train": 70_000, "validation": 15_000},
        validation="train[90%:+200]",
        test="validation",
        label_key="objects",
        label_fields=("pixel_coords",),
        label=clevr_distance,
        class_names=_ranges(CLEVR_DISTANCES),
    ),
    _task(
        "dmlab",
        "dmlab:2.0.1",
        num_classes=6,
        whole={"train": 65_550, "validation": 22_628, "test": 22_735},
    ),
    _task(
        "kitti_distance",
        "kitti:3.1.0",
        num_classes=4,
        whole={"train": 6_347, "validation": 423, "test": 711},
        label_key="objects",
        label_fields=("type", "location"),
        label=kitti_distance,
        class_names=(*_ranges(KITTI_DISTANCES, " m"), "no vehicle"),
    ),
    _task(
        "dsprites_location",
        "dsprites:2.*.*",
        num_classes=16,
        whole={"train": 737_280},
        validation="train[80%:+200]",
        test="train[90%:]",
        label_key="label_x_position",
        label=dsprites_location,
        class_names=tuple(f"place {place}" for place in range(16)),
        pixels=dsprites_pixels,
    ),
    _task(
        "dsprites_orientation",
        "dsprites:2.*.*",
        num_classes=16,
        whole={"train": 737_280},
        validation="train[80%:+200]",
        test="train[90%:]",
        label_key="label_orientation",
        label=dsprites_orientation,
        class_names=tuple(f"angle {angle}" for angle in range(16)),
        pixels=dsprites_pixels,
    ),
    _task(
        "smallnorb_azimuth",
        "smallnorb:2.*.*",
        num_classes=18,
        whole={"train": 24_300, "test": 24_300},
        validation="test[:200]",
        test="test[50%:]",
        label_key="label_azimuth",
    ),
    _task(
        "smallnorb_elevation",
        "smallnorb:2.*.*",
        num_classes=9,
        whole={"train": 24_300, "test": 24_300},
        validation="test[:200]",
        test="test[50%:]",
        label_key="label_elevation",
    ),
)
