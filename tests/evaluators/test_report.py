"""Precision, recall, F1 and the confusion matrix of each class are scikit-learn's."""

import json

import keras
import numpy as np
import pytest
from sklearn import metrics

from keras_vit.cli import main
from keras_vit.evaluators.report import make_report
from keras_vit.models.task import Task
from tests import tiny

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = RNG.integers(0, 3, 40)
HOT = (RNG.random((40, 3)) < 0.4).astype(int)


def outputs(model):
    return keras.ops.convert_to_numpy(model(IMAGES.astype("float32") / 127.5 - 1.0))


def check_rows(rows, expected):
    for name, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(column.tolist())


def test_report_of_one_class_an_image():
    model = tiny.make_model()
    report = make_report(model, {"test": (IMAGES, LABELS)}, batch_size=16)
    answered = outputs(model).argmax(-1)
    expected = metrics.precision_recall_fscore_support(LABELS, answered, zero_division=0)
    check_rows(report["classes"], expected)
    assert report["confusion_matrix"] == metrics.confusion_matrix(LABELS, answered).tolist()
    assert report["accuracy"] == metrics.accuracy_score(LABELS, answered)
    assert report["count"] == 40
    json.dumps(report, allow_nan=False)


def test_report_of_several_labels():
    model = tiny.make_model()
    model.task = Task(kind="multilabel", thresholds=(0.4, 0.5, 0.6))
    report = make_report(model, {"test": (IMAGES, HOT)})
    logits = outputs(model)
    given = 1 / (1 + np.exp(-logits)) >= [0.4, 0.5, 0.6]
    expected = metrics.precision_recall_fscore_support(HOT, given, zero_division=0)
    check_rows(report["classes"], expected)
    precisions = metrics.average_precision_score(HOT, logits, average=None)
    found = [row["average_precision"] for row in report["classes"]]
    assert found == pytest.approx(precisions.tolist(), abs=1e-5)
    assert [row["threshold"] for row in report["classes"]] == [0.4, 0.5, 0.6]


def test_report_of_values():
    model = tiny.make_model(num_classes=2)
    model.task = Task(kind="regression")
    values = RNG.normal(size=(40, 2))
    report = make_report(model, {"test": (IMAGES, values)})
    expected = metrics.r2_score(values, outputs(model), multioutput="raw_values")
    assert [row["r2"] for row in report["values"]] == pytest.approx(expected.tolist(), rel=1e-4)
    assert [row["name"] for row in report["values"]] == ["value_0", "value_1"]


def test_commands_write_a_report_and_a_calibrated_model(tmp_path, capsys):
    from PIL import Image

    lines = ["path,label,split"]
    for k in range(8):
        Image.fromarray(IMAGES[k]).save(tmp_path / f"{k}.png")
        lines += [f"{k}.png,{LABELS[k]},{split}" for split in ("test", "validation")]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    tiny.make_model(class_names=["0", "1", "2"]).save(tmp_path / "model.keras")
    common = [f"--model={tmp_path / 'model.keras'}", f"--dataset={tmp_path / 'list.csv'}"]
    command = ["evaluate", *common, f"--report={tmp_path / 'report'}"]
    assert main.main(command) == 0
    assert "report.json" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert np.sum(report["confusion_matrix"]) == 8
    with Image.open(tmp_path / "report" / "confusion_matrix.png") as picture:
        assert min(picture.size) > 200
    assert main.main(command) != 0
    assert "exists" in capsys.readouterr().err
    path = tmp_path / "calibrated.keras"
    assert main.main(["calibrate", *common, str(path), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert keras.saving.load_model(path).task == Task(temperature=numbers["temperature"])
    assert main.main(["calibrate", *common, "model.h5"]) != 0
    assert ".keras" in capsys.readouterr().err
