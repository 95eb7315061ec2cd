import dataclasses
import io
import json
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data import pipeline
from keras_vit.data.catalog import rows
from keras_vit.evaluators.classification import cross_entropy, evaluate, scored_classes
from keras_vit.evaluators.real import with_real_labels

# Sums of float32 logits' cross-entropies in float64, in another order.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def upstream(digits_dir):
    return pipeline.resolve("digits/upstream", digits_dir)


@pytest.fixture(scope="module")
def model():
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=5, image_size=8, patch_size=4, hidden_size=16, num_heads=2, depth=1
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    return model


@pytest.mark.parametrize("batch_size", [1, 32, 61, 183, 500])
def test_evaluate_counts_each_image_once_at_any_batch_size(model, upstream, batch_size):
    images, labels = [], []
    batches = pipeline.evaluation_dataset(upstream, "test", model.preprocessing, batch_size=183)
    for image, label, mask in batches.as_numpy_iterator():
        assert mask.all()
        images.append(image)
        labels.append(label)
    images, labels = np.concatenate(images), np.concatenate(labels)
    logits = keras.ops.convert_to_numpy(model(images, training=False)).astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    metrics = evaluate(model, upstream, "test", batch_size)
    assert metrics["count"] == len(labels) == 183
    assert metrics["accuracy"] == np.mean(logits.argmax(-1) == labels)
    expected = -log_probabilities[np.arange(183), labels].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=TOLERANCE)


def test_evaluate_resolves_a_name(model, upstream, digits_dir):
    by_name = evaluate(model, "digits/upstream", "validation", data_dir=digits_dir)
    assert by_name == evaluate(model, upstream, "validation")


def test_cross_entropy_hand_worked():
    logits = np.log(np.array([[1.0, 1.0, 2.0], [8.0, 1.0, 1.0]]))
    np.testing.assert_allclose(
        cross_entropy(logits, np.array([2, 1])), [np.log(2), np.log(10)], rtol=1e-12
    )
    assert cross_entropy(np.array([[1e5, 0.0]]), np.array([1])) == 1e5


def test_evaluate_refuses_other_classes(upstream):
    small = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_heads": 2, "depth": 1}
    other = keras_vit.create_model("ViT-Ti/16", num_classes=7, **small)
    with pytest.raises(ValueError, match="5 classes of 'digits/upstream'. Received: .* 7"):
        evaluate(other, upstream)
    named = keras_vit.create_model("ViT-Ti/16", num_classes=5, class_names=list("01235"), **small)
    with pytest.raises(ValueError, match="class 4 is '5' in the model and '4' in the data set"):
        evaluate(named, upstream)
    with pytest.raises(ValueError, match="each of the model's 5 classes. Received: 2"):
        evaluate(named, upstream, class_names=["0", "1"])


def test_evaluate_matches_classes_in_another_order_by_name(model, upstream):
    expected = evaluate(model, upstream)
    order = np.array([3, 0, 4, 1, 2])
    turned = type(model)(model.config, preprocessing=model.preprocessing)
    turned.set_weights(model.get_weights())
    head = turned.get_layer("head")
    head.kernel.assign(keras.ops.take(head.kernel, order, axis=1))
    turned.class_names = tuple(upstream.class_names[k] for k in order)
    assert evaluate(turned, upstream) == pytest.approx(expected)
    turned.class_names = None
    names = [upstream.class_names[k] for k in order]
    assert evaluate(turned, upstream, class_names=names) == pytest.approx(expected)


def test_evaluate_says_where_it_assumes_the_order_of_the_classes(model, upstream, caplog):
    with caplog.at_level("WARNING"):
        evaluate(model, upstream, "validation")
    assert "their order is assumed to be that of 'digits/upstream', 0, 1, 2, ..." in caplog.text


def test_evaluate_refuses_a_folder_whose_class_was_renamed(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "test" / name).mkdir(parents=True)
        png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
        (tmp_path / "test" / name / "0.png").write_bytes(png)
    names = pipeline.resolve(tmp_path).class_names
    small = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_heads": 2, "depth": 1}
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, class_names=names, **small)
    assert evaluate(model, tmp_path)["count"] == 2
    (tmp_path / "test" / "ant").rename(tmp_path / "test" / "wasp")  # bee comes first now
    with pytest.raises(ValueError, match="class 0 is 'ant' in the model and 'bee' in the data"):
        evaluate(model, tmp_path)


def test_evaluate_refuses_an_unknown_split(model, upstream):
    with pytest.raises(ValueError, match="`split` must be one of .* did you mean 'test'"):
        evaluate(model, upstream, "tset")


# Labels of six images by their place; the second and the fifth have none.
REAL = [[5], [], [7, 8], [9], [], [11]]


@pytest.fixture(scope="module")
def imagenet_dir(tmp_path_factory):
    """Six images of ImageNet's validation, prepared by TFDS, and `real.json` beside them."""
    root = tmp_path_factory.mktemp("imagenet")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as archive:
        for k in range(len(REAL)):
            # TFDS writes in an order of its own: the names tell which image is which.
            data = tf.io.encode_jpeg(np.full((8, 8, 3), 40 * k, np.uint8), quality=100).numpy()
            member = tarfile.TarInfo(f"ILSVRC2012_val_{k + 1:08d}.JPEG")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (root / "real.json").write_text(json.dumps(REAL))
    pipeline.resolve("imagenet2012", root, download=True)
    return root


CLASSES = [5, 3, 8, 1, 4, 11]  # of the grey levels


@pytest.fixture(scope="module")
def thousand():
    return grey_model(CLASSES)


class Grey(keras.layers.Layer):
    """Sees an image's grey level, and knows its first and second class by that."""

    def __init__(self, classes, second=()):
        super().__init__()
        self.scores = np.zeros((len(classes), 1_000), np.float32)
        if len(second):
            self.scores[np.arange(len(second)), second] = 1.0
        self.scores[np.arange(len(classes)), classes] = 2.0

    def call(self, images):
        places = keras.ops.round(keras.ops.mean(images, axis=(1, 2, 3)) / 40)
        return keras.ops.take(self.scores, keras.ops.cast(places, "int32"), axis=0)


def grey_model(classes, second=()):
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, Grey(classes, second)(images))
    model.preprocessing = keras_vit.Preprocessing(image_size=(8, 8), value_range=(0.0, 255.0))
    model.class_names = ("tench, Tinca tinca", *map(str, range(1, 1_000)))
    return model


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
def test_evaluate_by_real_labels_counts_any_label_and_leaves_out_images_without(
    thousand, imagenet_dir, batch_size
):
    metrics = evaluate(
        thousand,
        "imagenet2012",
        batch_size=batch_size,
        data_dir=imagenet_dir,
        real_labels=imagenet_dir / "real.json",
    )
    # Right, -, right by the second label, wrong, -, right.
    assert metrics == {"accuracy": 0.75, "count": 4, "unlabelled": 2}


def test_evaluate_takes_official_words_for_wordnet_ids(thousand, imagenet_dir):
    metrics = evaluate(thousand, "imagenet2012", data_dir=imagenet_dir)
    assert set(metrics) == {"accuracy", "loss", "count"}
    info = pipeline.resolve("imagenet2012", imagenet_dir)
    labels = info.source.labels("test")
    predictions = [CLASSES[place] for place in _greys(info)]
    assert metrics["accuracy"] == np.mean(labels == predictions)


def test_evaluate_by_real_labels_refuses_what_does_not_fit(
    thousand, imagenet_dir, upstream, tmp_path
):
    path = tmp_path / "real.json"
    path.write_text("[[1]]")
    with pytest.raises(ValueError, match="as many as the images, 6. Received: 1 in"):
        evaluate(thousand, "imagenet2012", data_dir=imagenet_dir, real_labels=path)
    with pytest.raises(ValueError, match="imagenet2012. Received: 'digits/upstream'"):
        evaluate(thousand, upstream, real_labels=path)


def test_evaluate_among_the_classes_that_occur(imagenet_dir):
    info = pipeline.resolve("imagenet2012", imagenet_dir)
    info = dataclasses.replace(info, evaluation=rows.SHARED_CLASSES)
    # The image's own class is second, after one that does not occur.
    own = dict(zip(_greys(info), info.source.labels("test").tolist(), strict=True))
    own = [own[k] for k in range(6)]
    absent = next(label for label in range(1_000) if label not in own)
    model = grey_model([absent] * 6, second=own)
    metrics = evaluate(model, info)
    assert metrics.pop("loss") < np.log(1_000)
    assert metrics == {
        "accuracy": 1.0,
        "top5_accuracy": 1.0,
        "classes": len(set(own)),
        "count": 6,
    }
    assert evaluate(model, dataclasses.replace(info, evaluation=rows.TOP_1))["accuracy"] == 0


def _greys(info):
    for image, _ in info.source.stream("test"):
        yield round(float(tf.reduce_mean(tf.cast(tf.io.decode_jpeg(image), "float32"))) / 40)


def test_evaluate_objectnet_takes_any_of_the_labels_among_the_classes_that_occur(imagenet_dir):
    info = pipeline.resolve("imagenet2012", imagenet_dir)
    info = with_real_labels(info, imagenet_dir / "real.json")
    info = dataclasses.replace(info, evaluation=rows.SHARED_CLASSES)
    assert scored_classes(info, "test").tolist() == [5, 7, 8, 9, 11]
    # Right once 999 is left out; without a label; right; wrong, its own second; -; wrong.
    model = grey_model([999, 3, 7, 5, 4, 5], second=[5, 3, 8, 9, 4, 7])
    assert evaluate(model, info) == {
        "accuracy": 0.5,
        "unlabelled": 2,
        "top5_accuracy": 1.0,
        "classes": 5,
        "count": 4,
    }


def test_labels_that_are_shares_of_classes_are_not_taken_for_lists_of_classes():
    import tensorflow as tf

    from keras_vit.evaluators.classification import evaluate_batches

    class Logits:
        def predict_on_batch(self, images):
            return images

    logits = np.log([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]).astype("float32")
    shares = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]], "float32")
    batches = tf.data.Dataset.from_tensors((logits, shares, np.ones(3, "float32")))
    metrics = evaluate_batches(Logits(), batches)
    # Right, wrong, and right with one of two classes that are alike.
    assert metrics["accuracy"] == 2 / 3
    assert metrics["count"] == 3
    expected = -np.sum(shares * logits) / 3
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
