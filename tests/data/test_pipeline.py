import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import examples, pipeline
from keras_vit.data.images import preprocess
from keras_vit.data.images.operations import MixUp


@dataclasses.dataclass(frozen=True)
class Rule:
    """The attributes of `keras_vit.models.preprocessing.Preprocessing`."""

    image_size: tuple = (8, 8)
    value_range: tuple = (0.0, 255.0)
    resize: str = "squash"
    resize_to: tuple | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple | None = None
    std: tuple | None = None
    channels: int = 3
    orientation: str | None = None


RULE = Rule()


@pytest.fixture(params=["pixels", "encoded", "streamed", "paths", "photographs"])
def source(request, upstream, image_folder, monkeypatch):
    """(info, split, number of examples), once for each way of reading."""
    if request.param in ("encoded", "paths"):
        monkeypatch.setattr(examples, "MAX_PIXEL_BYTES", 0)
    if request.param == "streamed":
        monkeypatch.setattr(examples, "MAX_INDEXED_BYTES", 0)
        monkeypatch.setattr(examples, "SHUFFLE_BUFFER", 50)
    if request.param in ("paths", "photographs"):
        return pipeline.resolve(image_folder), "train", 9
    return upstream, "test", 183


def _arrays(dataset, num_batches):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(num_batches)]


def _examples(batches):
    """Batches -> a list of (image bytes, label)."""
    return [
        (image.tobytes(), int(label))
        for images, labels, *_ in batches
        for image, label in zip(images, labels, strict=True)
    ]


def _train(info, split, **options):
    options = {"batch_size": 3, "seed": 5} | options
    return pipeline.training_dataset(info, split, RULE, **options)


def test_training_dataset_has_static_shapes(source):
    info, split, _ = source
    assert _train(info, split).element_spec == (
        tf.TensorSpec((3, 8, 8, 3), tf.float32),
        tf.TensorSpec((3,), tf.int32),
    )


def test_datasets_leave_no_thread_that_their_end_waits_for(source):
    info, split, _ = source
    evaluation = pipeline.evaluation_dataset(info, split, RULE, batch_size=3)
    for dataset in (_train(info, split), evaluation):
        assert dataset.options().autotune.enabled is False
        assert dataset.options().deterministic is True
        assert dataset.options().threading.max_intra_op_parallelism == 1


def test_training_dataset_epoch_holds_each_example_once(source):
    info, split, size = source
    # 3 divides both sizes, so that an epoch ends with a batch.
    batches = _arrays(_train(info, split), 2 * size // 3)
    first, second = batches[: size // 3], batches[size // 3 :]
    evaluation = _examples(
        _arrays(pipeline.evaluation_dataset(info, split, RULE, batch_size=1), -1)
    )
    assert sorted(_examples(first)) == sorted(_examples(second)) == sorted(evaluation)
    assert _examples(first) != _examples(second)
    assert _examples(first) != evaluation


@pytest.mark.parametrize("augmentation", ["none", "crop"])
def test_training_dataset_resumed_equals_uninterrupted(source, augmentation):
    info, split, size = source
    start = size // 3 + 2  # in the second epoch
    whole = _arrays(_train(info, split, augmentation=augmentation), start + 4)
    resumed = _arrays(_train(info, split, augmentation=augmentation, start_step=start), 4)
    assert _examples(whole[start:]) == _examples(resumed)


def _assert_shard_is_its_part(info, split, index, **options):
    whole = _arrays(_train(info, split, **options), 70)  # past a batch of blanks
    shard = _train(info, split, shard=(index, 3), **options)
    assert shard.element_spec[0] == tf.TensorSpec((2, 8, 8, 3), tf.float32)
    for expected, received in zip(whole, _arrays(shard, 70), strict=True):
        for part, part_of_shard in zip(expected, received, strict=True):
            np.testing.assert_array_equal(part_of_shard, part[2 * index : 2 * index + 2])


def test_training_dataset_shard_is_its_part_of_each_batch(source):
    info, split, _ = source
    _assert_shard_is_its_part(info, split, 1, batch_size=6, augmentation="crop", start_step=1)


def test_training_dataset_shard_of_mixed_images_is_its_part_of_each_batch(upstream):
    mixing = MixUp(0.5)
    for index in range(3):
        _assert_shard_is_its_part(upstream, "test", index, batch_size=6, augmentation=mixing)


def test_training_dataset_other_seed_has_another_order(source):
    info, split, _ = source
    same, other = (_arrays(_train(info, split, seed=seed), 3) for seed in (5, 6))
    assert _examples(same) == _examples(_arrays(_train(info, split), 3))
    assert _examples(same) != _examples(other)


def test_training_dataset_global_seed_has_no_say(source):
    info, split, _ = source
    seen = []
    for global_seed in (0, 1):
        tf.random.set_seed(global_seed)
        seen.append(_examples(_arrays(_train(info, split, augmentation="crop"), 4)))
    assert seen[0] == seen[1]


def test_training_dataset_augments_by_seed_epoch_and_index(image_folder):
    # One file with a gradient, alone in its class: the label tells it apart.
    for path in (image_folder / "train" / "dog").iterdir():
        path.unlink()
    gradient = np.arange(16, dtype=np.uint8).reshape(1, 16, 1).repeat(16, 0).repeat(3, -1) * 16
    png = tf.io.encode_png(gradient).numpy()
    (image_folder / "train" / "dog" / "x.png").write_bytes(png)
    info = pipeline.resolve(image_folder)
    seen = []
    for batch_size in (1, 2):  # the batch has no say
        batches = _arrays(
            _train(info, "train", augmentation="crop", batch_size=batch_size), 18 // batch_size
        )
        seen.append([image for image, label in _examples(batches) if label == 1])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3  # three epochs of six
    example_seed = pipeline.example_seed(5, tf.constant(1, tf.int64), tf.constant(5, tf.int64))
    expected = preprocess.training_image(gradient, RULE, example_seed, "crop")
    assert seen[0][1] == expected.numpy().tobytes()


def test_training_dataset_shots_keeps_so_many_of_each_class(upstream, image_folder):
    batches = _arrays(_train(upstream, "train", shots=3, batch_size=15), 2)
    for _, labels in batches:
        assert np.bincount(labels).tolist() == [3] * 5
    assert sorted(_examples(batches[:1])) == sorted(_examples(batches[1:]))
    one = set(_examples(_arrays(_train(upstream, "train", shots=1, batch_size=5), 1)))
    assert one < set(_examples(batches))
    other = set(_examples(_arrays(_train(upstream, "train", shots=1, batch_size=5, seed=1), 1)))
    assert one != other
    folder = pipeline.resolve(image_folder)
    ((_, labels),) = _arrays(_train(folder, "train", shots=4, batch_size=8), 1)
    assert np.bincount(labels).tolist() == [4, 4]
    with pytest.raises(ValueError, match="Received: 5, and .* has 4 of class 'dog'"):
        _train(folder, "train", shots=5)


def test_evaluation_dataset_counts_each_example_once_at_any_batch_size(source):
    info, split, size = source
    reference = None
    for batch_size in (4, size, size + 5):
        dataset = pipeline.evaluation_dataset(info, split, RULE, batch_size=batch_size)
        assert dataset.element_spec == (
            tf.TensorSpec((batch_size, 8, 8, 3), tf.float32),
            tf.TensorSpec((batch_size,), tf.int32),
            tf.TensorSpec((batch_size,), tf.float32),
        )
        assert int(dataset.cardinality()) == -(-size // batch_size)
        images, labels, mask = (np.concatenate(parts) for parts in zip(*dataset, strict=True))
        np.testing.assert_array_equal(mask, np.arange(len(mask)) < size)
        assert not images[size:].any()
        examples = _examples([(images[:size], labels[:size])])
        reference = reference or examples
        assert examples == reference


def test_evaluation_dataset_folder_has_the_files_pixels_in_order(image_folder):
    info = pipeline.resolve(image_folder)
    dataset = pipeline.evaluation_dataset(info, "test", RULE, batch_size=3)
    ((images, labels, _),) = _arrays(dataset, -1)
    # image_folder's colours: nine in train come first.
    np.testing.assert_array_equal(
        images, np.broadcast_to([[[[90]]], [[[100]]], [[[110]]]], images.shape)
    )
    assert labels.tolist() == [0, 0, 1]


def test_datasets_bad_image_stops_the_run_by_name(image_folder):
    bad = image_folder / "train" / "dog" / "2.jpg"
    for data, reason in (
        (b"<html>", "looks like HTML"),
        (b"", "it is empty"),
        (bad.read_bytes()[:-20], "damaged or truncated"),
    ):
        bad.write_bytes(data)
        info = pipeline.resolve(image_folder)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"train/dog/2.jpg: .*{reason}"):
            _arrays(pipeline.evaluation_dataset(info, "train", RULE, batch_size=2), -1)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"train/dog/2.jpg: .*{reason}"):
            _arrays(_train(info, "train"), 3)


def test_training_dataset_wrong_arguments_raise(upstream):
    with pytest.raises(ValueError, match="`batch_size` must be a multiple .*Received: 3 for 2"):
        _train(upstream, "train", num_replicas=2)
    for name, value in (("batch_size", 0), ("shots", 0), ("num_replicas", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be positive. Received: 0"):
            _train(upstream, "train", **{name: value})
    for shard in ((0, 2), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match=r"a divisor of `batch_size`. Received: \(.* for 3"):
            _train(upstream, "train", shard=shard)
    with pytest.raises(ValueError, match="`seed` must be in"):
        _train(upstream, "train", seed=-1)
    with pytest.raises(ValueError, match="`start_step` must not be negative"):
        _train(upstream, "train", start_step=-1)
    with pytest.raises(ValueError, match="`augmentation` must be"):
        _train(upstream, "train", augmentation="flop")
    with pytest.raises(ValueError, match="`split` must be one of"):
        _train(upstream, "dev")
    with pytest.raises(ValueError, match="`batch_size` must be positive"):
        pipeline.evaluation_dataset(upstream, "test", RULE, batch_size=0)


def test_datasets_labels_that_are_no_classes_raise(upstream, monkeypatch):
    info = dataclasses.replace(upstream, class_names=upstream.class_names[:4])
    with pytest.raises(ValueError, match=r"Labels must be in \[0, 4\). Received: 4"):
        _train(info, "train")
    monkeypatch.setattr(examples, "MAX_INDEXED_BYTES", 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="label out of range"):
        _arrays(_train(info, "train"), 180)
