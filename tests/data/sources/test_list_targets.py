"""Several labels and values: in lists, in arrays and in streams."""

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import integrity, pipeline
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(8, 8))
IMAGES = np.zeros((3, 8, 8, 3), np.uint8)
HOT = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.int64)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path, encode):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(encode(np.full((8, 8, 3), 10 * k, np.uint8), "PNG"))
    return tmp_path


def resolved(folder, text, name="list.csv", **options):
    (folder / name).write_text(text, encoding="utf-8")
    return pipeline.resolve(folder / name, **options)


def evaluation_labels(info, split="train"):
    batches = pipeline.evaluation_dataset(info, split, RULE, batch_size=2)
    return np.concatenate([labels[mask > 0] for _, labels, mask in batches.as_numpy_iterator()])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,labels\n0.png,bee | ant\n1.png,\n2.png,cat\n"),
        ("list.csv", 'path,labels\n0.png,"[""bee"", ""ant""]"\n1.png,[]\n2.png,cat\n'),
        (
            "list.jsonl",
            '{"path": "0.png", "labels": ["ant", "bee"]}\n{"path": "1.png", "labels": []}\n'
            '{"path": "2.png", "labels": "cat"}\n',
        ),
    ],
)
def test_list_with_several_labels_is_multi_hot(folder, name, text):
    info = resolved(folder, text, name)
    assert (info.task, info.class_names) == ("multilabel", ("ant", "bee", "cat"))
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(evaluation_labels(info), expected)
    data = pipeline.training_dataset(info, "train", RULE, batch_size=3, seed=0)
    _, labels = next(data.as_numpy_iterator())
    assert sorted(map(tuple, labels)) == sorted(map(tuple, expected))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,value:Age,value:weight\n0.png,3,1.5\n1.png,-2,0\n2.png,1e1,7\n"),
        (
            "list.jsonl",
            '{"path": "0.png", "value:Age": 3, "value:weight": 1.5}\n'
            '{"path": "1.png", "value:Age": -2, "value:weight": 0}\n'
            '{"path": "2.png", "value:Age": 10, "value:weight": 7}\n',
        ),
    ],
)
def test_list_with_values_keeps_their_names(folder, name, text):
    info = resolved(folder, text, name)
    assert (info.task, info.class_names) == ("regression", ("Age", "weight"))
    np.testing.assert_array_equal(evaluation_labels(info), [[3, 1.5], [-2, 0], [10, 7]])


def test_one_value_is_called_value(folder):
    info = resolved(folder, "path,value,split\n0.png,3,\n1.png,4,test\n")
    assert info.class_names == ("value",)
    assert evaluation_labels(info, "test").tolist() == [[4.0]]


def test_changed_labels_change_the_fingerprint(folder):
    text = "path,labels\n0.png,ant|bee\n1.png,ant\n2.png,\n"
    before = resolved(folder, text).fingerprint(["train"])
    assert resolved(folder, text).fingerprint(["train"]) == before
    assert resolved(folder, text.replace("1.png,ant", "1.png,")).fingerprint(["train"]) != before


def test_bad_images_of_several_labels_are_left_out(folder):
    (folder / "1.png").write_bytes(b"no image")
    info = resolved(folder, "path,labels\n0.png,ant|bee\n1.png,ant\n2.png,\n")
    info, entries = integrity.resolve_without_bad(info, max_bad_fraction=0.5)
    assert len(entries) == 1
    assert evaluation_labels(info).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\n0.png,[3.5]\n", r"`labels` must be a JSON list .*'\[3.5\]' in line 2"),
        ("path,labels\n0.png,\n", "must have labels"),
        ("path,value\n0.png,old\n", "`value` must be a finite number.*'old' in line 2"),
        ("path,value\n0.png,nan\n", "finite number.*'nan'"),
    ],
)
def test_bad_line_is_named(folder, text, message):
    with pytest.raises(ValueError, match=message):
        resolved(folder, text)


def test_lines_of_several_tasks_are_refused(folder):
    text = '{"path": "0.png", "value": 1}\n{"path": "1.png", "labels": ["a"]}\n'
    with pytest.raises(ValueError, match="the same of `label`, `labels` and `value`.*line 2"):
        resolved(folder, text, "list.jsonl")
    text = '{"path": "0.png", "value:a": 1}\n{"path": "1.png", "value:b": 1}\n'
    with pytest.raises(ValueError, match="must have the values a. Received: b in line 2"):
        resolved(folder, text, "list.jsonl")


@pytest.mark.parametrize("as_stream", [False, True])
def test_multi_hot_arrays_and_streams_are_taken(as_stream):
    data = (IMAGES, HOT)
    if as_stream:
        data = tf.data.Dataset.from_tensor_slices(data)
    info = pipeline.resolve(data, task="multilabel")
    assert (info.task, info.num_classes) == ("multilabel", 3)
    np.testing.assert_array_equal(evaluation_labels(info), HOT)


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("values", [np.array([1, 2, 3]), np.array([[0.5], [1.5], [-1.0]])])
def test_values_in_arrays_and_streams_are_taken(values, as_stream):
    data = (IMAGES, values)
    if as_stream:
        data = tf.data.Dataset.from_tensor_slices(data)
    info = pipeline.resolve(data, task="regression")
    assert info.class_names == ("value",)
    np.testing.assert_array_equal(evaluation_labels(info), values.reshape(3, 1))


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        (np.array([0, 1, 2]), "multilabel", "multi-hot"),
        (HOT * 2, "multilabel", "multi-hot"),
        (np.array([1.0, np.inf, 0.0]), "regression", "Values must be finite numbers"),
        (np.array(["a", "b", "c"]), "regression", "Values must be finite numbers"),
    ],
)
def test_arrays_of_another_task_are_refused(labels, task, message):
    with pytest.raises(ValueError, match=message):
        pipeline.resolve((IMAGES, labels), task=task)


def test_data_of_another_task_are_refused_with_the_remedy(folder):
    info = pipeline.resolve((IMAGES, np.array([0, 1, 2])))
    with pytest.raises(
        ValueError, match="several labels an image.*one class an image; give a list"
    ):
        pipeline.resolve(info, task="multilabel")
    info = resolved(folder, "path,value\n0.png,3\n")
    with pytest.raises(ValueError, match="set objective='regression'"):
        pipeline.resolve(info, task="classification")
