"""Predictions in the terms of the task: of a Keras model, of its SavedModel, in the command."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.cli import main
from keras_vit.inference.predict import KerasClassifier, Prediction, SavedModelClassifier, Value
from keras_vit.models.task import Task
from keras_vit.serving import checks, export
from keras_vit.training.recipe import Recipe
from tests import tiny

NAMES = [f"label_{k:02d}" for k in range(20)]
RNG = np.random.default_rng(0)


@pytest.fixture(name="photos", scope="module")
def photos_fixture(tmp_path_factory):
    """A list of 24 pictures with several of 20 labels, and one with two values."""
    folder = tmp_path_factory.mktemp("photos")
    labels, values = ["path,labels,split"], ["path,value:red,value:sum,split"]
    for k in range(24):
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        split = "train" if k < 12 else "validation" if k < 18 else "test"
        chosen = [NAMES[i] for i in np.flatnonzero(RNG.random(20) < 0.3)] + [NAMES[k % 20]]
        labels.append(f"{k}.png,{'|'.join(chosen)},{split}")
        values.append(f"{k}.png,{pixels[..., 0].mean()},{1000 * pixels.mean()},{split}")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "values.csv").write_text("\n".join(values))
    return folder


@pytest.fixture(name="models", scope="module")
def models_fixture(photos, tmp_path_factory):
    """Task -> (folder of the run, folder of the SavedModels)."""
    folder = tmp_path_factory.mktemp("models")
    tiny.make_model().save(folder / "source.keras")
    recipe = Recipe(steps=2, batch_size=4, report_steps=1)
    found = {}
    for task, name in (("multilabel", "labels.csv"), ("regression", "values.csv")):
        run = keras_vit.finetune(
            folder / "source.keras",
            photos / name,
            folder / task,
            recipe=recipe,
            objective=task,
            progress=False,
        )
        with pytest.MonkeyPatch.context() as patch:
            if task == "regression":  # one export is tried in a process of its own
                report = checks.CheckReport({}, {})
                patch.setattr(export, "check_saved_model", lambda *_, report=report: report)
            keras_vit.export(run.model, folder / f"{task}_saved")
        found[task] = folder / task, folder / f"{task}_saved"
    return found


def images_of(photos):
    return [photos / f"{k}.png" for k in range(18, 24)]


def test_labels_over_their_thresholds_are_predicted(photos, models):
    run, saved = models["multilabel"]
    model = keras_vit.from_pretrained(run)
    thresholds = model.task.thresholds
    assert len(thresholds) == 20
    answers = list(keras_vit.predict(model, images_of(photos)))
    for answer, path in zip(answers, images_of(photos), strict=True):
        image = np.asarray(Image.open(path), np.float32)[np.newaxis] / 127.5 - 1
        probabilities = 1 / (1 + np.exp(-np.asarray(model.predict_on_batch(image))[0]))
        expected = {NAMES[i] for i in np.flatnonzero(probabilities >= thresholds)}
        assert {p.class_name for p in answer.predictions} == expected
        for p in answer.predictions:
            assert isinstance(p, Prediction)
            assert p.probability == pytest.approx(probabilities[p.class_id], abs=1e-5)
    from_saved = list(keras_vit.predict(SavedModelClassifier(saved), images_of(photos)))
    for answer, other in zip(answers, from_saved, strict=True):
        assert [p.class_name for p in answer.predictions] == [
            p.class_name for p in other.predictions
        ]


def test_saved_model_says_which_labels_are_present(photos, models):
    _, saved = models["multilabel"]
    classifier = SavedModelClassifier(saved)
    assert classifier.task.kind == "multilabel"
    encoded = tf.constant([path.read_bytes() for path in images_of(photos)])
    answer = classifier._loaded.signatures["serving_default"](image_bytes=encoded)
    probabilities = tf.nn.sigmoid(answer["scores"]).numpy()
    expected = probabilities >= np.float32(classifier.task.thresholds)
    np.testing.assert_array_equal(answer["present"], expected)
    description = json.loads((classifier.folder / "assets" / "model.json").read_text())
    assert description["activation"] == "sigmoid"
    assert description["task"]["kind"] == "multilabel"


def test_values_are_predicted_with_their_names(photos, models):
    run, saved = models["regression"]
    model = keras_vit.from_pretrained(run)
    answers = list(keras_vit.predict(model, images_of(photos), batch_size=4))
    image = np.asarray(Image.open(images_of(photos)[0]), np.float32)[np.newaxis] / 127.5 - 1
    expected = np.asarray(model.predict_on_batch(image))[0]
    assert [p.name for p in answers[0].predictions] == ["red", "sum"]
    assert [p.value for p in answers[0].predictions] == pytest.approx(expected, rel=1e-5)
    assert isinstance(answers[0].predictions[0], Value)
    for answer, other in zip(
        answers, keras_vit.predict(SavedModelClassifier(saved), images_of(photos)), strict=True
    ):
        values = [p.value for p in answer.predictions]
        assert [p.value for p in other.predictions] == pytest.approx(values, rel=1e-4)
    loaded = SavedModelClassifier(saved)._loaded.signatures["serving_default"]
    encoded = tf.constant([images_of(photos)[0].read_bytes()])
    outputs = loaded(image_bytes=encoded)
    assert set(outputs) == {"scores", "values"}
    np.testing.assert_array_equal(outputs["values"], outputs["scores"])


def test_commands_evaluate_and_predict_in_the_terms_of_the_task(photos, models, tmp_path, capsys):
    run, _ = models["multilabel"]
    data = f"--dataset={photos / 'labels.csv'}"
    assert main.main(["evaluate", f"--model={run}", data, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"mean_average_precision", "f1_micro", "f1_macro"} <= set(metrics)
    assert main.main(["evaluate", f"--model={run}", data]) == 0
    assert "mean_average_precision" in capsys.readouterr().out
    run, _ = models["regression"]
    output = tmp_path / "values.csv"
    paths = [str(path) for path in images_of(photos)]
    command = ["predict", f"--model={run}", f"--output={output}", *paths]
    assert main.main(command) == 0
    rows = list(csv.DictReader(output.open()))
    assert list(rows[0]) == ["path", "error", "name_1", "value_1", "name_2", "value_2"]
    expected = list(keras_vit.predict(keras_vit.from_pretrained(run), paths))
    assert float(rows[0]["value_2"]) == pytest.approx(expected[0].predictions[1].value)
    capsys.readouterr()
    assert main.main(["predict", f"--model={run}", paths[0]]) == 0
    assert "sum" in capsys.readouterr().out


def test_temperature_divides_the_logits(photos):
    model = tiny.make_model()
    before = next(iter(keras_vit.predict(model, images_of(photos)[:1])))
    model.task = Task(temperature=4.0)
    after = next(iter(keras_vit.predict(model, images_of(photos)[:1])))
    logits = {p.class_id: np.log(p.probability) / 4 for p in before.predictions}
    total = sum(np.exp(list(logits.values())))
    for p in after.predictions:
        assert p.probability == pytest.approx(np.exp(logits[p.class_id]) / total, abs=1e-6)


def test_activation_of_another_task_is_refused(photos):
    model = tiny.make_model()
    model.task = Task(kind="multilabel")
    with pytest.raises(ValueError, match="`activation` must be 'sigmoid' for .*'multilabel'"):
        keras_vit.predict(KerasClassifier(model), images_of(photos), activation="softmax")
    with pytest.raises(ValueError, match="`activation` must be 'sigmoid' for .*'multilabel'"):
        keras_vit.export(model, photos / "none", activation="softmax")
