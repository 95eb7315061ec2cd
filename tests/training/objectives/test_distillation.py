"""Distillation: the loss of the papers, a frozen teacher that is not written, exact resumption."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.training.callbacks import StopAfter
from keras_vit.training.loop import compile_model
from keras_vit.training.objectives.distillation import Distillation, DistillationLoss
from keras_vit.training.recipe import Recipe
from keras_vit.training.run import finetune
from tests import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 8, 8, 3), np.uint8)
LABELS = np.arange(16) % 3
RECIPE = Recipe(
    steps=4, batch_size=8, report_steps=2, learning_rate=0.1, objective="distillation", teacher="x"
)
PREPROCESSING = {"value_range": (0.0, 1.0), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A student, and a teacher of another size, other values, and classes in another order."""
    path = tmp_path_factory.mktemp("models")
    tiny.make_model().save(path / "student.keras")
    teacher = tiny.make_model(image_size=12, class_names=["2", "0", "1"])
    teacher.preprocessing = keras_vit.Preprocessing(image_size=(12, 12), **PREPROCESSING)
    teacher.save(path / "teacher.keras")
    return path


def train(folder, workdir, **options):
    options = {"teacher": folder / "teacher.keras", "progress": False, **options}
    return finetune(folder / "student.keras", (IMAGES, LABELS), workdir, recipe=RECIPE, **options)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("labels", [[1, 0], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
def test_losses_are_those_of_the_papers(labels):
    student, teacher = RNG.normal(size=(2, 2, 3)).astype("float32")
    logits = np.concatenate([student, teacher], -1)
    of_labels = -np.log(softmax(student)[[0, 1], [1, 0]])
    wanted, found = softmax(teacher / 2.0), softmax(student / 2.0)
    soft = 4.0 * np.sum(wanted * np.log(wanted / found), -1)
    expected = np.mean(0.7 * of_labels + 0.3 * soft)
    loss = DistillationLoss("soft", 2.0, 0.3)
    assert float(loss(np.array(labels), logits)) == pytest.approx(expected, rel=1e-5)
    hard = -np.log(softmax(student)[[0, 1], teacher.argmax(-1)])
    loss = DistillationLoss.from_config(DistillationLoss("hard", 2.0, 0.5).get_config())
    expected = np.mean(0.5 * of_labels + 0.5 * hard)
    assert float(loss(np.array(labels), logits)) == pytest.approx(expected, rel=1e-5)


def test_teacher_sees_the_same_images_in_its_own_values(folder):
    student = keras_vit.from_pretrained(folder / "student.keras")
    teacher = keras_vit.from_pretrained(folder / "teacher.keras")
    info = keras_vit.data.pipeline.resolve((IMAGES, LABELS))
    trained = Distillation(str(folder / "teacher.keras")).build(student, info)
    assert {v.path for v in trained.trainable_variables} == {v.path for v in student.weights}
    x = IMAGES.astype("float32") / 127.5 - 1.0
    found = np.asarray(trained.predict_on_batch(x))
    pixels = keras.ops.image.resize(IMAGES.astype("float32") / 255.0, (12, 12))
    seen = (np.asarray(pixels) - PREPROCESSING["mean"]) / np.array(PREPROCESSING["std"])
    expected = np.asarray(teacher.predict_on_batch(seen.astype("float32")))[:, [1, 2, 0]]
    np.testing.assert_allclose(found[:, 3:], expected, atol=1e-5)
    np.testing.assert_allclose(found[:, :3], np.asarray(student.predict_on_batch(x)), atol=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_student_alone_is_written_and_a_killed_run_ends_with_the_same_bits(
    folder, tmp_path, monkeypatch, kind
):
    expected = train(folder, tmp_path / "a", distillation=kind)
    assert {"loss", "accuracy"} == set(expected.metrics["train"])
    assert expected.model.count_params() == tiny.make_model().count_params()
    original = StopAfter.on_train_batch_end

    def end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 3:
            monkeypatch.setattr(StopAfter, "on_train_batch_end", original)
            raise Killed

    monkeypatch.setattr(StopAfter, "on_train_batch_end", end)
    with pytest.raises(Killed):
        train(folder, tmp_path / "b", checkpoint_steps=1, distillation=kind)
    received = train(folder, tmp_path / "b", distillation=kind)
    for name in ("history.csv", "checkpoint.npz"):
        assert received.files[name].read_bytes() == expected.files[name].read_bytes()


def test_teacher_may_be_a_model_which_stays_as_it_is(folder, tmp_path):
    teacher = keras_vit.from_pretrained(folder / "teacher.keras")
    before = teacher.get_weights()
    result = train(folder, tmp_path / "a", teacher=teacher)
    assert teacher.trainable
    for received, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(received, expected)
    expected = train(folder, tmp_path / "b")
    for received, wanted in zip(
        result.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(received, wanted)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "distillation"}, "needs a `teacher`"),
        ({"teacher": "a.keras"}, "`teacher` is of the objectives distillation"),
        ({"objective": "distillation", "teacher": "a", "loss": "sigmoid"}, "`loss` must be one"),
        (
            {"objective": "distillation", "teacher": "a", "distillation": "hard", "temperature": 2},
            "`temperature` is of distillation='soft'",
        ),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(steps=2, **fields)


def test_teacher_of_other_classes_is_refused(folder, tmp_path):
    tiny.make_model(num_classes=4).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="must have the 3 classes"):
        train(folder, tmp_path / "run", teacher=tmp_path / "other.keras")


@pytest.mark.parametrize("tune", ["all", "head", "lora:2"])
def test_part_of_the_student_can_be_trained_and_the_teacher_stays(folder, tmp_path, tune):
    result = train(folder, tmp_path, tune=tune, layer_decay=0.5)
    student = keras_vit.from_pretrained(folder / "student.keras")
    changed = [
        v.path
        for v, before in zip(result.model.weights, student.get_weights(), strict=True)
        if not np.array_equal(np.asarray(v), before)
    ]
    assert "head/kernel" in changed
    assert ("encoderblock_0/attention/query_kernel" in changed) == (tune != "head")


@pytest.mark.parametrize("tune", [None, "all", "head", "lora:2"])
def test_teacher_is_never_trained(folder, tune):
    student = keras_vit.from_pretrained(folder / "student.keras")
    info = keras_vit.data.pipeline.resolve((IMAGES, LABELS))
    objective = Distillation(str(folder / "teacher.keras"))
    trained = objective.build(student, info)
    recipe = Recipe(steps=2, objective=objective, tune=tune)
    compile_model(trained, recipe, objective, 2)
    own = {id(v) for v in student.trainable_variables}
    assert {id(v) for v in trained.trainable_variables} == own
