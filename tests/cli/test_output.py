"""Files that appear whole or not at all."""

import json
import os

import pytest

from keras_vit.cli import output
from keras_vit.cli.errors import CommandError


def test_write_json_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "folder" / "metrics.json"
    for value in ({"a": 1}, {"a": 2}):
        output.write_json(path, value)
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(path.parent) == ["metrics.json"]


def test_write_json_failure_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    output.write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        output.write_json(path, float("nan"))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        output.write_json(path, 2)
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_check_new_file_existing_needs_overwrite(tmp_path):
    path = tmp_path / "out.json"
    assert output.check_new_file(path, overwrite=False) == path
    path.write_text("x")
    with pytest.raises(CommandError, match="exists; .* --overwrite"):
        output.check_new_file(path, overwrite=False)
    assert output.check_new_file(path, overwrite=True) == path


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_check_writable_folder_read_only_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CommandError, match="cannot be written"):
        output.check_writable_folder(tmp_path / "new")
