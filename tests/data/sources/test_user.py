import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import pipeline
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.data.sources.protocol import Source
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(8, 8))
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


@pytest.fixture(name="images")
def images_fixture():
    """Seven images of one grey level each, whose level is 10 times their place."""
    return np.repeat(10 * np.arange(7, dtype=np.uint8), 8 * 8 * 3).reshape(7, 8, 8, 3)


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels, size):
        super().__init__()
        self.parts, self.size = (images, labels), size

    def __len__(self):
        return -(-len(self.parts[0]) // self.size)

    def __getitem__(self, index):
        return tuple(part[index * self.size : (index + 1) * self.size] for part in self.parts)


def _training(info, **options):
    options = {"batch_size": 3, "seed": 1, **options}
    return pipeline.training_dataset(info, "train", RULE, **options)


def _places(batch):
    """The places of the examples of a batch, from their grey level."""
    return np.round((batch[0][:, 0, 0, 0] * 127.5 + 127.5) / 10).astype(int).tolist()


def _given(kind, images):
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS))
    return {
        "arrays": (images, LABELS),
        "columns": (images, LABELS[:, np.newaxis]),
        "int32": (images.astype(np.int32), LABELS.astype(np.float64)),
        "names": (images, np.array(["ant", "bee", "cat"])[LABELS]),
        "dataset": dataset,
        "batched": dataset.batch(4),
        "uneven": dataset.batch(4).map(lambda x, y: (x, y[:, tf.newaxis])),
        "py_dataset": Batches(images, LABELS, 2),
    }[kind]


KINDS = ("arrays", "columns", "int32", "names", "dataset", "batched", "uneven", "py_dataset")


@pytest.mark.parametrize("kind", KINDS)
def test_user_data_are_evaluated_once_each_in_order(images, kind):
    info = pipeline.resolve({"test": _given(kind, images)})
    assert isinstance(info.source, Source)
    assert info.split_sizes == {"test": 7}
    assert info.class_names == (("ant", "bee", "cat") if kind == "names" else ("0", "1", "2"))
    assert info.image_size == (8, 8)
    assert info.source.labels("test").tolist() == LABELS.tolist()
    batches = list(pipeline.evaluation_dataset(info, "test", RULE, batch_size=4))
    pixels, labels, mask = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert mask.tolist() == [1] * 7 + [0]
    assert labels[:7].tolist() == LABELS.tolist()
    for ours, image in zip(pixels[:7], images, strict=True):
        np.testing.assert_array_equal(ours, evaluation_image(image, RULE))


def test_arrays_are_shuffled_each_epoch_and_resume_at_once(images):
    info = pipeline.resolve((images, LABELS))
    batches = list(_training(info).take(14).as_numpy_iterator())
    places = np.concatenate([_places(batch) for batch in batches])
    for epoch in range(6):
        assert sorted(places[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert places[:7].tolist() != places[7:14].tolist()
    for batch in batches:
        assert batch[1].tolist() == LABELS[_places(batch)].tolist()
    later = next(_training(info, start_step=5).as_numpy_iterator())
    np.testing.assert_array_equal(later[0], batches[5][0])
    assert pipeline.example_indices(info, "train", batch_size=3, seed=1, step=5) == _places(later)


@pytest.mark.parametrize("kind", ["batched", "py_dataset"])
def test_stream_keeps_its_order_and_resumes_anywhere(images, kind):
    info = pipeline.resolve(_given(kind, images))
    assert info.source.resumption_problem("train") is None
    batches = list(_training(info).take(5).as_numpy_iterator())
    expected = [k % 7 for k in range(15)]
    assert np.concatenate([_places(batch) for batch in batches]).tolist() == expected
    later = next(_training(info, start_step=4).as_numpy_iterator())
    np.testing.assert_array_equal(later[0], batches[4][0])


def test_stream_of_weights_and_shares_gives_them_too(images):
    shares = np.eye(3, dtype=np.float32)[LABELS]
    weights = np.linspace(0, 1, 7, dtype=np.float32)
    for data in (
        (images, shares, weights),
        tf.data.Dataset.from_tensor_slices((images, shares, weights)).batch(2),
    ):
        info = pipeline.resolve(data)
        assert info.num_classes == 3
        batch = next(_training(info).as_numpy_iterator())
        np.testing.assert_array_equal(batch[1], shares[_places(batch)])
        np.testing.assert_array_equal(batch[2], weights[_places(batch)])
        with pytest.raises(ValueError, match="without weights"):
            _training(info, augmentation="bit_160_128_mixup")


def test_encoded_images_of_a_stream_are_decoded_by_us(images, encode):
    encoded = [encode(image, "PNG") for image in images]
    info = pipeline.resolve(tf.data.Dataset.from_tensor_slices((encoded, LABELS)))
    batch = next(_training(info).as_numpy_iterator())
    assert _places(batch) == [0, 1, 2]


def test_floats_of_any_bands_go_into_the_model_as_they_are(images):
    ready = np.random.default_rng(0).normal(size=(7, 8, 8, 10))
    for data in ((ready, LABELS), tf.data.Dataset.from_tensor_slices((ready, LABELS)).batch(2)):
        info = pipeline.resolve(data)
        dataset = _training(info, augmentation="crop_flip")
        indices = pipeline.example_indices(info, "train", batch_size=3, seed=1, step=0)
        batch = next(dataset.as_numpy_iterator())
        np.testing.assert_array_equal(batch[0], ready[indices].astype(np.float32))
    with pytest.raises(ValueError, match="so they must have its size"):
        _training(pipeline.resolve((ready[:, :4], LABELS)))


def test_splits_may_be_of_different_kinds(images):
    info = pipeline.resolve({"train": (images, LABELS), "test": Batches(images, LABELS, 3)})
    assert info.split_sizes == {"train": 7, "test": 7}
    with pytest.raises(ValueError, match="`split` must be one of"):
        info.num_examples("train[:3]")


def test_shots_of_arrays_and_streams_take_the_same_examples(images):
    for kind in ("arrays", "dataset"):
        info = pipeline.resolve(_given(kind, images))
        batches = list(_training(info, shots=2).take(2).as_numpy_iterator())
        places = sorted(np.concatenate([_places(batch) for batch in batches]).tolist())
        assert sorted(LABELS[places].tolist()) == [0, 0, 1, 1, 2, 2]
        assert len(set(places)) == 6


def test_fingerprint_changes_with_a_pixel_a_label_and_the_names(images):
    other, labels = images.copy(), LABELS.copy()
    other[3, 2, 1, 0] += 1
    labels[6] = 1
    infos = [
        *(pipeline.resolve(data) for data in ((images, LABELS), (other, LABELS), (images, labels))),
        pipeline.resolve((images, LABELS), class_names=["a", "b", "c"]),
    ]
    assert len({info.fingerprint(["train"]) for info in infos}) == 4
    again = pipeline.resolve((images.copy(), LABELS.tolist()))
    assert again.fingerprint(["train"]) == infos[0].fingerprint(["train"])


def test_stream_that_shuffles_each_time_can_be_trained_and_says_that_it_cannot_be_resumed(images):
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS)).shuffle(7)
    info = pipeline.resolve(dataset)
    assert "reshuffle_each_iteration=False" in info.source.resumption_problem("train")
    assert sorted(k for b in _training(info).take(7) for k in _places(b)) == sorted(
        3 * list(range(7))
    )


def test_stream_of_known_size_with_class_names_is_not_read_beforehand(images):
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS)).repeat(20)
    num_read = []

    def count(image, label):
        num_read.append(1)
        return image, label

    dataset = dataset.map(lambda *pair: tf.numpy_function(count, pair, (tf.uint8, tf.int64)))
    dataset = dataset.map(lambda image, label: (tf.ensure_shape(image, (8, 8, 3)), label[()]))
    dataset = dataset.map(lambda image, label: (image, tf.ensure_shape(label, ())))
    info = pipeline.resolve(dataset, class_names="abc")
    assert info.split_sizes == {"train": 140}
    assert len(num_read) < 70  # the start, twice, and what is read ahead of it
    assert info.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda x: (x, LABELS[:3]), ValueError, "as many labels as images"),
        (lambda x: (x[0, 0], LABELS), ValueError, r"\(n, H, W, C\)"),
        (lambda x: (x.astype(int) * 100, LABELS), ValueError, "scale them first"),
        (lambda x: (x, -LABELS), ValueError, "from 0 on"),
        (lambda x: (x, LABELS, LABELS[:2]), ValueError, "one weight for each image"),
        (lambda x: {}, ValueError, "empty dict"),
        (lambda x: {"train": x}, TypeError, "ndarray for 'train'"),
        (
            lambda x: tf.data.Dataset.from_tensor_slices((x, LABELS)).repeat(),
            ValueError,
            "leave `.repeat\\(\\)` out",
        ),
        (tf.data.Dataset.from_tensor_slices, ValueError, r"must give \(image, label\)"),
        (
            lambda x: tf.data.Dataset.from_tensor_slices((x, LABELS)).batch(2).batch(2),
            ValueError,
            "tf.ensure_shape",
        ),
    ],
)  # fmt: skip
def test_user_data_of_another_shape_are_refused(images, make, error, match):
    with pytest.raises(error, match=match):
        pipeline.resolve(make(images))


def test_class_names_of_a_data_set_that_has_its_own_are_refused():
    with pytest.raises(ValueError, match="which has its own"):
        pipeline.resolve("digits/all", class_names=["a"])


def test_labels_beyond_the_class_names_are_refused(images):
    for data in ((images, LABELS), {"train": tf.data.Dataset.from_tensor_slices((images, LABELS))}):
        info = pipeline.resolve(data, class_names=["a", "b"])
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"\[0, 2\)|out of"):
            next(iter(_training(info)))
