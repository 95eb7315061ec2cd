import json

import numpy as np
import pytest
import tensorflow as tf


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
    assert out == f"{folder}: 4 examples checked, 0 bad entries\n"


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


def test_validate_wrong_arguments_exit_2(folder, keras_vit_command):
    assert keras_vit_command("validate")[0] == 2
    code, _, err = keras_vit_command("validate", folder, "--splits=tset")
    assert code == 2
    assert "Received: 'tset'" in err
