"""Class weights and balanced sampling in a training."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from keras_vit.data import pipeline
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.class_weights import class_weights, weighted
from keras_vit.training.recipe import Recipe
from keras_vit.training.recipe_overrides import parse_overrides
from keras_vit.training.run import finetune

RNG = np.random.default_rng(0)
LABELS = np.array([0] * 10 + [1] * 4 + [2] * 2)
IMAGES = RNG.integers(0, 256, (16, 8, 8, 3), np.uint8)
RECIPE = Recipe(steps=4, batch_size=8, report_steps=2, learning_rate=0.1)
WAYS = [{"class_weights": "balanced"}, {"class_weights": (1, 0, 2)}, {"sampling": "balanced"}]


class Killed(Exception):
    """Stands for the end of the process."""


def train(source, workdir, **options):
    return finetune(source, (IMAGES, LABELS), workdir, recipe=RECIPE, progress=False, **options)


def test_balanced_weights_are_those_of_scikit_learn():
    info = pipeline.resolve((IMAGES, LABELS))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(class_weights("balanced", info, "train"), expected, rtol=1e-6)
    with_empty = pipeline.resolve((IMAGES, LABELS), class_names=["a", "b", "c", "none"])
    found = class_weights("balanced", with_empty, "train")
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-6)


@pytest.mark.parametrize("labels", [[1, 2], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
def test_weights_of_examples_and_of_classes_are_multiplied(labels):
    data = tf.data.Dataset.from_tensors((tf.zeros((2, 1)), tf.constant(labels)))
    (_, _, weights) = next(iter(weighted(data, [1.0, 2.0, 3.0])))
    assert weights.numpy().tolist() == [2.0, 3.0]
    data = data.map(lambda x, y: (x, y, tf.constant([0.5, 10.0])))
    (_, _, weights) = next(iter(weighted(data, [1.0, 2.0, 3.0])))
    assert weights.numpy().tolist() == [1.0, 30.0]


def test_training_with_class_weights_is_that_with_weights_of_examples(source, tmp_path):
    result = train(source, tmp_path / "a", class_weights=(1, 0, 2))
    weights = np.array([1, 0, 2], np.float32)[LABELS]
    expected = finetune(
        source, (IMAGES, LABELS, weights), tmp_path / "b", recipe=RECIPE, progress=False
    )
    for received, wanted in zip(
        result.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(received, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_killed_run_ends_with_the_same_bits(source, tmp_path, monkeypatch, way):
    expected = train(source, tmp_path / "a", **way)
    original = StopAfter.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 3:
            monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
            raise Killed

    monkeypatch.setattr(StopAfter, "on_train_batch_end", end)
    with pytest.raises(Killed):
        train(source, tmp_path / "b", checkpoint_steps=1, **way)
    received = train(source, tmp_path / "b", **way)
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == expected.files[name].read_bytes()


@pytest.mark.tensorflow_only
def test_two_replicas_train_as_one_device(source, tmp_path):
    way = {"class_weights": (1, 3, 2), "sampling": "balanced", "steps": 2}
    result = train(source, tmp_path / "two", strategy="mirrored", **way)
    expected = train(source, tmp_path / "one", **way)
    for received, wanted in zip(
        result.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(received, wanted, atol=1e-5)


def test_command_line_writes_weights_with_commas():
    fields = parse_overrides(["class_weights=1,0.5,2", "sampling=balanced"])
    recipe = Recipe(steps=1, **fields)
    assert recipe.class_weights == (1.0, 0.5, 2.0)
    assert Recipe(steps=1, class_weights="balanced").describe()["class_weights"] == "balanced"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_weights": "equal"}, "`class_weights` must be 'balanced', or a number for each"),
        ({"class_weights": (1.0, -1.0)}, "none negative"),
        ({"sampling": "random"}, "`sampling` must be one of"),
        ({"sampling": "balanced", "objective": "multilabel"}, "`sampling` is of one class"),
        ({"class_weights": (1, 2), "objective": "mae"}, "`class_weights` is of one class"),
        ({"class_weights": "balanced", "sampling": "balanced"}, "balanced once"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(steps=2, **fields)


def test_another_number_of_weights_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="one for each of the 3 classes"):
        train(source, tmp_path, class_weights=(1.0, 2.0))
