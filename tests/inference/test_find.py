"""What is wrong with one entry of a folder costs no other its answer."""

import os

import pytest

from keras_vit.inference.find import find_images

PNG = b"\x89PNG\r\n\x1a\n"


def found(*paths):
    files, failures = find_images(paths)
    return [path.name for path in files], {os.path.basename(p): why for p, why in failures}


def test_a_link_loop_and_strange_names_cost_no_other(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken.jpg").symlink_to("none")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(PNG)
    names, failures = found(tmp_path)
    assert names == ["a.png", "\udcff.png"]
    assert set(failures) == {"loop", "broken.jpg", "pipe.png"}
    assert failures["broken.jpg"] == "no such file or folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_subfolder_and_file_are_answered(tmp_path):
    (tmp_path / "sub").mkdir(0o000)
    (tmp_path / "b").write_bytes(PNG)
    (tmp_path / "b").chmod(0)
    (tmp_path / "z.png").write_bytes(PNG)
    names, failures = found(tmp_path)
    assert names == ["z.png"]
    assert set(failures) == {"sub", "b"}


def test_errors_of_the_file_system_are_of_their_entry(tmp_path, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (tmp_path / "sub").mkdir()
    (tmp_path / "z.png").write_bytes(PNG)
    monkeypatch.setattr(os, "scandir", refusing)
    assert found(tmp_path) == (["z.png"], {"sub": "Permission denied"})


def test_images_are_told_by_their_ending_or_their_first_bytes(tmp_path):
    for name, content in {
        "1.HEIC": b"", "2": PNG, "3.txt": b"text", ".4.png": PNG, "5.jpg": b"<html>",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    assert found(tmp_path) == (["1.HEIC", "2", "5.jpg"], {})


def test_paths_that_are_none_are_answered_each(tmp_path):
    (tmp_path / "empty").mkdir()
    names, failures = found(tmp_path / "empty", tmp_path / "none", "a\0b", "x" * 300)
    assert names == []
    assert failures["empty"] == "there is no image in this folder"
    assert len(failures) == 4


def test_folders_nested_deeper_than_calls_may_be(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1_200):
            os.mkdir("d")
            os.chdir("d")
        with open("deep.png", "wb") as file:
            file.write(PNG)
    finally:
        os.chdir(here)
    (tmp_path / "a.png").write_bytes(PNG)
    names, failures = found(tmp_path)
    assert names == ["a.png", "deep.png"] or failures
    # Left to the machine's own tools: pytest's removal is recursive.
    os.system(f"rm -rf '{tmp_path}/d'")
