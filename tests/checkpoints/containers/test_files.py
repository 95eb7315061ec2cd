"""Files beside the arrays: what is there is read or an error, and never hangs."""

import json
import os

import numpy as np
import pytest

from keras_vit.checkpoints.containers import files
from keras_vit.errors import CheckpointError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_safetensors(path, {"a": np.zeros(2, np.float32)})
    return path


def test_a_pipe_in_the_place_of_an_index_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        files.open_container(files.file_of(tmp_path))


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "a LiteRT model"),
        ("flax_model.msgpack", b"\x81\xa6params", "Flax's msgpack"),
        ("frozen.pb", b"\n\x05", "a graph of TensorFlow's"),
        ("model.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
    ],
)
def test_files_of_other_libraries_are_named_for_what_they_are(name, start, message, tmp_path):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(CheckpointError, match=message):
        files.open_container(tmp_path / name)


@pytest.mark.parametrize("version", ["", "1/"])
def test_an_export_is_named_for_what_it_is(version, tmp_path):
    (tmp_path / version).mkdir(exist_ok=True)
    (tmp_path / f"{version}saved_model.pb").write_bytes(b"\x08\1")
    with pytest.raises(CheckpointError, match="is a SavedModel, which serves"):
        files.file_of(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("loop", p)])
def test_a_config_that_is_no_file_is_an_error_and_not_ignored(path, make):
    make(path.with_name("config.json"))
    with pytest.raises(CheckpointError, match="config.json"):
        files.open_container(path).facts()


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": ' + "9" * 5_000 + "}",
        '{"label": "\\ud800"}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "[]",
        b'{"a": "\xed\xa0\x80"}',
    ],
    ids=range(7),
)
def test_json_that_is_none_is_an_error(path, text):
    content = text if isinstance(text, bytes) else text.encode()
    path.with_name("config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json") as error:
        files.open_container(path).facts()
    assert len(str(error.value)) < 600


def test_names_longer_than_a_file_may_have_are_an_error(tmp_path):
    name = "x" * 300 + ".safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        files.open_container(index)
