"""Folders that a command writes into: marked, of one work, one process."""

import pytest

from keras_vit.inference.output_folder import MARKER, claim


def test_the_same_work_goes_on_and_other_work_is_refused(tmp_path):
    folder = tmp_path / "new" / "folder"
    with claim(folder, {"model": "a"}, "*.part"):
        (folder / "1.part").write_text("")
        with pytest.raises(BlockingIOError), claim(folder, {"model": "a"}, "*.part"):
            pass
    with claim(folder, {"model": "a"}, "*.part"):
        assert (folder / "1.part").is_file()
    with (
        pytest.raises(ValueError, match="other work. Received: another model; name another"),
        claim(folder, {"model": "b"}, "*.part"),
    ):
        pass
    (folder / "note.txt").write_text("")
    with claim(folder, {"model": "b"}, "*.part", overwrite=True):
        assert not list(folder.glob("*.part"))  # what "a" had done is not taken for its work
        assert (folder / "note.txt").is_file()
    assert {path.name for path in folder.iterdir()} == {MARKER, "note.txt"}


def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "1.part").write_text("mine")
    for overwrite in (False, True):
        with (
            pytest.raises(ValueError, match="holds other files; name another one"),
            claim(tmp_path, {}, "*.part", overwrite),
        ):
            pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("1.part", "mine")]
    with pytest.raises(ValueError, match="must not be empty"), claim("", {}, "*.part"):
        pass


def test_a_damaged_mark_is_that_of_other_work(tmp_path):
    with claim(tmp_path / "x", {"model": "a"}, "*.part"):
        pass
    (tmp_path / "x" / MARKER).write_text("[")
    with (
        pytest.raises(ValueError, match="another format, model"),
        claim(tmp_path / "x", {"model": "a"}, "*"),
    ):
        pass
