import json

import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import pipeline
from keras_vit.data.findings import findings


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for k in range(2):
            jpeg = tf.io.encode_jpeg(np.full((9, 9, 3), 50 * k, np.uint8)).numpy()
            (tmp_path / "train" / name / f"{k}.jpg").write_bytes(jpeg)
    return tmp_path


def test_validate_good_data_set_exits_0(folder, keras_vit_command):
    code, out, err = keras_vit_command("validate", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"{folder}: 4 examples checked, 0 bad entries"
    code, out, _ = keras_vit_command("validate", folder, "--nofindings")
    assert (code, out) == (0, f"{folder}: 4 examples checked, 0 bad entries\n")


def test_validate_bad_data_set_lists_all_and_exits_1(folder, keras_vit_command):
    (folder / "train" / "a" / "x.jpg").write_bytes(b"<html>")
    (folder / "train" / "b" / "y.jpg").symlink_to("nowhere")
    code, out, err = keras_vit_command("validate", folder, "--json")
    assert (code, err) == (1, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [
        str(folder / "train" / "b" / "y.jpg"),
        str(folder / "train" / "a" / "x.jpg"),
    ]
    code, out, _ = keras_vit_command("validate", folder)
    assert code == 1
    assert out.splitlines()[-1] == f"{folder}: 5 examples checked, 2 bad entries"


def test_validate_says_what_finetune_would_about_the_pictures(folder, keras_vit_command):
    (folder / "test" / "a").mkdir(parents=True)
    (folder / "test" / "b").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    for k, name in enumerate("ab"):
        data = tf.io.encode_png(pixels[k]).numpy()
        (folder / "test" / name / "new.png").write_bytes(data)
    (folder / "train" / "a" / "leak.png").write_bytes(data)  # that of test's b
    code, out, err = keras_vit_command("validate", folder)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines()[:-1] if not line.startswith("finding: ")] == []
    told = findings(pipeline.resolve(folder))
    assert [line.removeprefix("finding: ") for line in out.splitlines()[:-1]] == told
    for said in ("fewer than 10 pictures", "leaks between splits", "of one colour", "the class"):
        assert any(said in sentence for sentence in told), said
    # As JSON only where it is asked for, and only about the splits that are.
    code, out, _ = keras_vit_command("validate", folder, "--json")
    assert (code, out) == (0, "")
    code, out, _ = keras_vit_command("validate", folder, "--json", "--findings", "--splits=train")
    told = [json.loads(line)["finding"] for line in out.splitlines()]
    assert code == 0
    assert any("of one colour" in sentence for sentence in told)
    assert not any("leaks" in sentence for sentence in told)


def test_validate_wrong_arguments_exit_2(folder, keras_vit_command):
    assert keras_vit_command("validate")[0] == 2
    code, _, err = keras_vit_command("validate", folder, "--splits=tset")
    assert code == 2
    assert "Received: 'tset'" in err
