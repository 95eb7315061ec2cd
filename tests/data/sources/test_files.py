import numpy as np
import pytest

from keras_vit.data import integrity, pipeline
from keras_vit.models.preprocessing import Preprocessing

RULE = Preprocessing(image_size=(8, 8))


@pytest.fixture(name="folder")
def folder_fixture(tmp_path, encode):
    """Four images whose grey level is 10 times their number."""
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(encode(np.full((8, 8, 3), 10 * k, np.uint8), "PNG"))
    return tmp_path


def _write(folder, text, name="list.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,label,split\n0.png,ant,train\n1.png,bee,test\n2.png,ant,\n"),
        ("list.csv", "\ufeffLabel, Path ,split\nant,0.png,\nbee,1.png,test\n\nant,2.png,train\n"),
        ("list.csv", '"0.png",ant\n1.png,bee,test\n2.png,ant,train\n'),
        (
            "list.jsonl",
            '{"path": "0.png", "label": "ant"}\n{"path": "1.png", "label": "bee", "split": "test"}'
            '\n\n{"path": "2.png", "label": "ant", "note": 3}',
        ),
    ],
)  # fmt: skip
def test_list_is_a_data_set(folder, name, text):
    info = pipeline.resolve(_write(folder, text, name))
    assert info.class_names == ("ant", "bee")
    assert info.split_sizes == {"train": 2, "test": 1}
    assert info.source.labels("test").tolist() == [1]
    images, labels, _ = next(iter(pipeline.evaluation_dataset(info, "train", RULE, batch_size=2)))
    assert labels.numpy().tolist() == [0, 0]
    np.testing.assert_allclose(images[:, 0, 0, 0] * 127.5 + 127.5, [0, 20], atol=1e-4)


def test_list_of_numbers_keeps_them_and_names_may_be_given(folder):
    path = _write(folder, "0.png,10\n1.png,2\n2.png,0\n")
    info = pipeline.resolve(path)
    assert (info.num_classes, info.source.labels("train").tolist()) == (11, [10, 2, 0])
    names = [f"class {k}" for k in range(12)]
    info = pipeline.resolve(path, class_names=names)
    assert (info.num_classes, info.source.labels("train").tolist()) == (12, [10, 2, 0])
    path = _write(folder, "0.png,b\n1.png,a\n")
    info = pipeline.resolve(path, class_names=["b", "c", "a"])
    assert info.source.labels("train").tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("list.csv", "", "empty"),
        ("list.csv", "0.png,a\n1.png\n", "line 2"),
        ("list.csv", "0.png,a\n1.png,b,test,more\n", "line 2"),
        ("list.csv", "path,label\n0.png,a\n\n,b\n", "`path`.*line 4"),
        ("list.csv", "0.png,\n", "`label`.*line 1"),
        ("list.jsonl", '{"path": "0.png", "label": "a"}\n{"path"\n', "JSON object.*line 2"),
        ("list.jsonl", "[1]\n", "JSON object.*line 1"),
        ("list.jsonl", '{"path": "0.png", "label": 0.5}\n', "`label`.*0.5 in line 1"),
        ("list.jsonl", '{"path": "0.png", "label": -1}\n', "from 0 on.*line 1"),
        ("list.jsonl", '{"path": "0.png", "label": "a", "split": 3}\n', "`split`.*line 1"),
    ],
)
def test_list_with_a_wrong_line_is_refused_with_its_number(folder, name, text, match):
    with pytest.raises(ValueError, match=match):
        pipeline.resolve(_write(folder, text, name))


def test_list_with_a_label_that_is_no_class_is_refused_with_its_line(folder):
    path = _write(folder, "0.png,a\n1.png,z\n")
    with pytest.raises(ValueError, match="'z' in line 2"):
        pipeline.resolve(path, class_names=["a", "b"])


def test_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="list must be a file"):
        pipeline.resolve(tmp_path / "none.csv")


def test_list_with_missing_and_broken_files_is_checked_like_a_folder(folder):
    (folder / "broken.png").write_bytes(b"hello")
    path = _write(folder, "0.png,a\n1.png,b\nnone.png,a\nbroken.png,b\n")
    info, entries = integrity.resolve_without_bad(path, max_bad_fraction=0.5)
    assert [entry.index for entry in entries] == [2, 3]
    assert info.source.labels("train").tolist() == [0, 1]
    assert [p.rpartition("/")[2] for p in info.source.paths("train")] == ["0.png", "1.png"]


def test_fingerprint_of_files_changes_with_names_and_contents(folder, encode):
    path = _write(folder, "0.png,a\n1.png,b\n")
    before = pipeline.resolve(path).fingerprint(["train"])
    assert pipeline.resolve(path).fingerprint(["train"]) == before
    (folder / "1.png").rename(folder / "one.png")
    renamed = pipeline.resolve(_write(folder, "0.png,a\none.png,b\n")).fingerprint(["train"])
    (folder / "0.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8), "PNG"))
    replaced = pipeline.resolve(path).fingerprint(["train"])
    assert len({before, renamed, replaced}) == 3
