"""The ground floor's files: regular ones only, whole or not at all, one holder of a lock."""

import errno
import os
import socket
import threading

import pytest

from keras_vit import files


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("make", [_fifo, _socket, os.mkdir], ids=["fifo", "socket", "folder"])
def test_open_regular_refuses_what_is_no_file_at_once(tmp_path, make):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(OSError):
        files.open_regular(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "/dev/zero", "\udcff\ud800"])
def test_open_regular_answers_every_path_with_an_os_error(path):
    with pytest.raises(OSError):
        files.open_regular(path)


def test_open_regular_follows_links_by_choice(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    assert files.read_regular(tmp_path / "link", 3) == b"abc"
    for name, follow in (("link", False), ("loop", True)):
        with pytest.raises(OSError):
            files.read_regular(tmp_path / name, 3, follow_links=follow)
    with pytest.raises(OSError, match="larger than 2 bytes"):
        files.read_regular(tmp_path / "file", 2)


def test_replacing_leaves_the_old_file_where_the_block_fails(tmp_path, monkeypatch):
    path = tmp_path / "folder" / ("ü" * 120)
    files.write_whole(path, "old")
    with pytest.raises(TypeError), files.replacing(path) as file:
        file.write("no bytes")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        files.write_whole(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_replacing_puts_a_file_in_the_place_of_a_link(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "link").symlink_to("victim")
    files.write_whole(tmp_path / "link", "new")
    assert (tmp_path / "victim").read_text() == "kept"
    assert (tmp_path / "link").read_text() == "new"


def test_empty_paths_are_refused():
    with pytest.raises(ValueError, match=r"path of --output must not be empty. Received: ''"):
        files.check_not_empty_path("", "--output")
    with pytest.raises(ValueError, match="must not be empty"):
        files.write_whole("", "x")


def test_sync_of_a_folder_is_left_out_where_the_platform_has_none(tmp_path, monkeypatch):
    opened = os.open

    def like_windows(path, *arguments):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", like_windows)
    files.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.sync(tmp_path / "none")


def test_lock_is_exclusive_and_leaves_no_file(tmp_path):
    path = tmp_path / "x.lock"
    with files.lock(path):
        with pytest.raises(BlockingIOError, match="another process"), files.lock(path):
            pass
        waiting, done = threading.Event(), []

        def wait():
            with files.lock(path, on_wait=waiting.set):
                done.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(10)
        assert not done
    thread.join(10)
    assert done
    assert os.listdir(tmp_path) == []


def test_lock_never_follows_a_link(tmp_path):
    (tmp_path / "x.lock").symlink_to("victim")
    with pytest.raises(OSError), files.lock(tmp_path / "x.lock"):
        pass
    assert not (tmp_path / "victim").exists()
