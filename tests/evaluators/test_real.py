import json

import numpy as np
import pytest

from keras_vit.data.catalog import rows
from keras_vit.evaluators import real


def test_real_accuracy_hand_worked():
    labels = np.array([[1, -1, -1], [2, 3, 4], [-1, -1, -1], [0, 5, -1]])
    # Right, right by the third label, without a label, wrong.
    assert real.real_accuracy(np.array([1, 4, 0, 2]), labels) == (2 / 3, 3)
    assert real.real_accuracy(np.array([0, 0, 0, 0]), labels) == (1 / 3, 3)


def test_real_accuracy_without_any_label_is_nan():
    accuracy, count = real.real_accuracy(np.array([0]), np.array([[-1, -1]]))
    assert np.isnan(accuracy)
    assert count == 0


def test_any_label_takes_several_predictions():
    labels = np.array([[7, -1], [2, 3]])
    assert real.any_label(np.array([[1, 7], [4, 5]]), labels).tolist() == [True, False]


def test_read_real_labels_fills_up(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[3], [], [1, 999]]))
    labels = real.read_real_labels(path)
    assert labels.shape == (3, rows.MAX_LABELS)
    assert labels[:, :3].tolist() == [[3, -1, -1], [-1, -1, -1], [1, 999, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1]", "must be a JSON file. Received: .*real.json"),
        ("{}", "must be a list with an entry for each image"),
        ("[]", "must be a list with an entry for each image"),
        ("[[1], 2]", "Received: 2 for image 2"),
        ("[[1000]]", r"classes in \[0, 1000\). Received: \[1000\] for image 1"),
        ("[[-1]]", r"Received: \[-1\] for image 1"),
        ("[[true]]", r"Received: \[True\] for image 1"),
        (json.dumps([list(range(17))]), "at most 16 classes"),
    ],
)
def test_read_real_labels_of_another_kind_raise(tmp_path, text, message):
    path = tmp_path / "real.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        real.read_real_labels(path)
