import dataclasses
import io
import json
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data import pipeline, table
from keras_vit.evaluation.classification import cross_entropy, evaluate, scored_classes
from keras_vit.evaluation.real import with_real_labels

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
    named = keras_vit.create_model("ViT-Ti/16", num_classes=5, class_names="01243", **small)
    with pytest.raises(ValueError, match="class 3 is '4' in the model and '3' in the data set"):
        evaluate(named, upstream)


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


@pytest.fixture(scope="module")
def thousand():
    return Grey([5, 3, 8, 1, 4, 11])


class Grey:
    """A stand-in for a model that sees an image's grey level, and knows its class by that."""

    preprocessing = keras_vit.Preprocessing(image_size=(8, 8), value_range=(0.0, 255.0))
    class_names = ("tench, Tinca tinca", *map(str, range(1, 1_000)))
    output_shape = (None, 1_000)

    def __init__(self, classes, second=()):
        self.classes, self.second = classes, second

    def predict_on_batch(self, images):
        places = np.rint(images.mean(axis=(1, 2, 3)) / 40).astype(int)
        logits = np.zeros((len(images), 1_000), np.float32)
        logits[np.arange(len(images)), np.take(self.classes, places)] = 2.0
        if len(self.second):
            logits[np.arange(len(images)), np.take(self.second, places)] = 1.0
        return logits


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
    predictions = [thousand.classes[place] for place in _greys(info)]
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
    info = dataclasses.replace(info, evaluation=table.SHARED_CLASSES)
    # The image's own class is second, after one that does not occur.
    own = dict(zip(_greys(info), info.source.labels("test").tolist(), strict=True))
    own = [own[k] for k in range(6)]
    absent = next(label for label in range(1_000) if label not in own)
    model = Grey([absent] * 6, second=own)
    metrics = evaluate(model, info)
    assert metrics.pop("loss") < np.log(1_000)
    assert metrics == {
        "accuracy": 1.0,
        "top5_accuracy": 1.0,
        "classes": len(set(own)),
        "count": 6,
    }
    assert evaluate(model, dataclasses.replace(info, evaluation=table.TOP_1))["accuracy"] == 0


def _greys(info):
    for image, _ in info.source.stream("test"):
        yield round(float(tf.reduce_mean(tf.cast(tf.io.decode_jpeg(image), "float32"))) / 40)


def test_evaluate_objectnet_takes_any_of_the_labels_among_the_classes_that_occur(imagenet_dir):
    info = pipeline.resolve("imagenet2012", imagenet_dir)
    info = with_real_labels(info, imagenet_dir / "real.json")
    info = dataclasses.replace(info, evaluation=table.SHARED_CLASSES)
    assert scored_classes(info, "test").tolist() == [5, 7, 8, 9, 11]
    # Right once 999 is left out; without a label; right; wrong, its own second; -; wrong.
    model = Grey([999, 3, 7, 5, 4, 5], second=[5, 3, 8, 9, 4, 7])
    assert evaluate(model, info) == {
        "accuracy": 0.5,
        "unlabelled": 2,
        "top5_accuracy": 1.0,
        "classes": 5,
        "count": 4,
    }
