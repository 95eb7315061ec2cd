"""The label maps against hand-worked numbers, and the tasks through TFDS's own builders."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_vit.data.catalog import names, resolve, vtab
from keras_vit.data.images.augmentation_presets import AUGMENTATIONS


def _clevr(*distances):
    coordinates = np.array([[1.0, 2.0, z] for z in distances], np.float32)
    return {"pixel_coords": coordinates, "size": np.zeros(len(distances), np.int64)}


def _kitti(*objects):
    types = np.array([kind for kind, _ in objects], np.int64)
    location = np.array([[30.0, 1.0, z] for _, z in objects], np.float32).reshape(-1, 3)
    return {"type": tf.constant(types), "location": tf.constant(location)}


def test_clevr_count_is_the_number_of_objects_less_three():
    assert [int(vtab.clevr_count(_clevr(*[9.0] * n))) for n in (3, 7, 10)] == [0, 4, 7]


@pytest.mark.parametrize(
    ("distance", "label"),
    [(0.1, 0), (7.9, 0), (8.0, 0), (8.01, 1), (8.5, 1), (8.7, 2), (9.3, 3), (9.9, 4), (10.1, 5)],
)
def test_clevr_distance_is_the_bin_of_the_closest_object(distance, label):
    assert int(vtab.clevr_distance(_clevr(30.0, distance, 12.0))) == label


CAR, VAN, TRUCK, PEDESTRIAN, TRAM = 0, 1, 2, 3, 6


@pytest.mark.parametrize(
    ("objects", "label"),
    [
        ([(CAR, 7.5), (CAR, 40.0)], 0),
        ([(VAN, -2.0)], 0),
        ([(TRUCK, 8.0)], 0),
        ([(TRUCK, 8.5), (PEDESTRIAN, 3.0)], 1),
        ([(CAR, 20.5)], 2),
        ([(PEDESTRIAN, 3.0), (TRAM, 5.0)], 3),
        ([], 3),
    ],
)
def test_kitti_distance_is_the_bin_of_the_closest_vehicle(objects, label):
    assert int(vtab.kitti_distance(_kitti(*objects))) == label


def test_dsprites_labels_are_grouped_by_floor_division():
    places, angles = np.arange(32), np.arange(40)
    assert vtab.dsprites_location(places).tolist() == np.floor(places / 2).tolist()
    assert vtab.dsprites_orientation(angles).tolist() == np.floor(angles / 2.5).tolist()
    assert vtab.dsprites_orientation(angles).max() == 15


def test_dsprites_pixels_are_black_and_white_in_three_channels():
    image = tf.constant([[[0], [1]]], tf.uint8)
    assert vtab.dsprites_pixels(image).numpy().tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_no_task_gets_an_augmentation_that_makes_its_label_untrue():
    """BiT, supplement F (arXiv:1912.11370v3): no mirror for three tasks, no crop for five."""
    operations = {
        name.removeprefix("vtab/"): str(AUGMENTATIONS[names.get_dataset(name).augmentation])
        for name in names.list_datasets("vtab/*")
    }
    assert {name for name, o in operations.items() if "Flip" not in o} == {
        "dsprites_orientation",
        "smallnorb_azimuth",
        "dsprites_location",
    }
    assert {name for name, o in operations.items() if "Crop" not in o} == {
        *("clevr_count", "clevr_distance", "dmlab", "kitti_distance", "dsprites_location"),
    }


@pytest.mark.parametrize("name", names.list_datasets("vtab/*"))
def test_task_reads_what_tfds_has(tmp_path, name):
    with tfds.testing.mock_data(num_examples=2):
        info = resolve.resolve(name, tmp_path, download=True)
        assert info.num_classes == names.get_dataset(name).num_classes
        assert info.split_sizes == {"train": 2, "validation": 2, "trainval": 2, "test": 2}
        stream = info.source.stream("trainval")
        image, label = stream.element_spec
        assert label == tf.TensorSpec((), tf.int64)
        is_pixels = name.startswith("vtab/dsprites")
        assert image == (
            tf.TensorSpec((64, 64, 3), tf.uint8) if is_pixels else tf.TensorSpec((), tf.string)
        )
        # TFDS's mock of a sequence with several fields gives each its own length.
        if name != "vtab/kitti_distance":
            assert len(list(stream)) == 2


def _write(data_dir, tfds_name, examples):
    """Writes a data set by TFDS's own builder: split -> list of feature dicts."""
    name, _, version = tfds_name.partition(":")
    real = tfds.builder_cls(name)

    class Made(real, skip_registration=True):
        """The features of the real one."""

        pkg_dir_path = real.pkg_dir_path
        VERSION = tfds.core.Version(version)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in examples.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Made.name = name
    Made(data_dir=data_dir).download_and_prepare()


def _labels(source, split):
    from_stream = [int(label) for _, label in source.stream(split)]
    assert source.labels(split).tolist() == from_stream
    return from_stream


def test_kitti_distance_reads_nested_features_from_tfrecords(tmp_path):
    def example(k):
        kind, z = (CAR, 10.0 + k % 3 * 20) if k % 4 else (PEDESTRIAN, 1.0)
        row = {
            "type": kind,
            "truncated": 0.0,
            "occluded": 0,
            "alpha": 0.0,
            "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
            "dimensions": [1.0, 1.0, 1.0],
            "location": [0.0, 0.0, z],
            "rotation_y": 0.0,
        }
        image = np.full((2, 3, 3), k % 251, np.uint8)
        return {"image": image, "image/file_name": str(k), "objects": [row] * (k % 2 + 1)}

    examples = [example(k) for k in range(1_010)]
    rows = {"train": examples[:800], "validation": examples[800:1_001], "test": examples[1_001:]}
    _write(tmp_path, "kitti:3.1.0", rows)
    info = resolve.resolve("vtab/kitti_distance", tmp_path)
    assert str(info.source.builder.version) == "3.1.0"
    assert info.split_sizes == {"train": 800, "validation": 200, "trainval": 1_000, "test": 9}
    assert info.class_names[-1] == "no vehicle"
    counts = np.bincount(_labels(info.source, "train"), minlength=4)
    # Pedestrians alone; z of 10; z of 30 and 50.
    assert counts.tolist() == [0, 200, 400, 200]


def test_clevr_reads_nested_features_from_tfrecords(tmp_path):
    def example(k):
        row = {
            **dict.fromkeys(("color", "material", "shape", "size"), 0),
            "rotation": 0.0,
            "3d_coords": [0.0, 0.0, 0.0],
            "pixel_coords": [0.0, 0.0, 7.0 + k % 4],
        }
        return {
            "image": np.full((2, 3, 3), k % 251, np.uint8),
            "file_name": str(k),
            "objects": [row] * (3 + k % 8),
            "question_answer": [{"question": "?", "answer": "!"}],
        }

    rows = {"train": [example(k) for k in range(2_000)], "validation": [example(0)]}
    _write(tmp_path, "clevr:3.1.0", rows)
    count = resolve.resolve("vtab/clevr_count", tmp_path)
    distance = resolve.resolve("vtab/clevr_distance", tmp_path)
    assert count.source.splits["validation"] == "train[1800:2000]"
    assert np.bincount(_labels(count.source, "trainval"), minlength=8).sum() == 1_000
    assert set(_labels(count.source, "train")) == set(range(8))
    # 7, 8, 9 and 10: a distance on an edge is in the bin below it.
    assert set(_labels(distance.source, "train")) == {0, 2, 4}


def test_dsprites_streams_pixels_from_tfrecords(tmp_path):
    def example(k):
        values = {f"value_{name}": 0.0 for name in ("shape", "scale", "orientation")}
        values |= {"value_x_position": 0.0, "value_y_position": 0.0}
        labels = {"label_shape": 0, "label_scale": 0, "label_y_position": 0}
        labels |= {"label_orientation": k % 40, "label_x_position": k % 32}
        image = np.zeros((64, 64, 1), np.uint8)
        image[k % 32] = 1
        return {"image": image, **values, **labels}

    _write(tmp_path, "dsprites:2.0.0", {"train": [example(k) for k in range(2_000)]})
    info = resolve.resolve("vtab/dsprites_location", tmp_path)
    assert info.split_sizes == {"train": 800, "validation": 200, "trainval": 1_000, "test": 200}
    for image, label in info.source.stream("validation"):
        rows = np.unique(np.flatnonzero(image.numpy().sum(axis=(1, 2))))
        assert rows // 2 == int(label)
        assert set(np.unique(image)) == {0, 255}
    turned = resolve.resolve("vtab/dsprites_orientation", tmp_path)
    assert set(_labels(turned.source, "train")) == set(range(16))
    assert info.source.image_shape == (64, 64, 3)
    assert info.source.num_bytes("train") == 800 * 64 * 64 * 3
