"""Servers and caches that mean ill: one `DownloadError`, no endless disk, no link followed."""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import socketserver
import threading
import time

import pytest

from keras_vit.checkpoints.download import fetch as download
from keras_vit.checkpoints.download import headers, urls
from keras_vit.checkpoints.download.fetch import fetch
from keras_vit.errors import DownloadError

NAME = "gs://vit_models/x.npz"
OK = b"HTTP/1.1 200 OK\r\n"
ZIP = b"PK\x05\x06" + bytes(18)


class _Server(socketserver.ThreadingTCPServer):
    """Sends `answer`, bytes or a function that yields them, whatever is asked."""

    allow_reuse_address = daemon_threads = True
    answer = b""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(65536)
        answer = self.server.answer
        try:
            for part in [answer] if isinstance(answer, bytes) else answer():
                self.request.sendall(part)
        except OSError:
            pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("KERAS_VIT_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("KERAS_VIT_OFFLINE", raising=False)
        monkeypatch.setattr(download, "_BACKOFF_SECONDS", 0.0)
        yield server
        server.shutdown()
        thread.join()


def left(tmp_path):
    return sorted(p.name for p in (tmp_path / "home").rglob("*") if not p.is_dir())


def length(number, body=b""):
    return OK + b"Content-Length: " + str(number).encode() + b"\r\n\r\n" + body


HOSTILE = {
    "length of 5,000 digits": length("9" * 5_000),
    "negative length": length(-5),
    "length in words": length("many"),
    "negative chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 9_999,
    "chunk of no number": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "broken host": b"HTTP/1.1 302 X\r\nLocation: http://[::1\r\n\r\n",
    "port of no number": b"HTTP/1.1 302 X\r\nLocation: https://x:99999999/\r\n\r\n",
    "host too long": b"HTTP/1.1 302 X\r\nLocation: https://" + b"a" * 300 + b"/\r\n\r\n",
    "location of text": b"HTTP/1.1 302 X\r\nLocation: https://\xff\xfe/\r\n\r\n",
    "wait of 5,000 digits": b"HTTP/1.1 404 X\r\nRetry-After: " + b"9" * 5_000 + b"\r\n\r\n",
    "escapes in the reason": b"HTTP/1.1 404 \x1b[2J\r\n\r\n",
    "part that nobody asked for": b"HTTP/1.1 206 X\r\nContent-Range: bytes 5-1/0\r\n\r\n",
    "no HTTP": b"SSH-2.0\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_answer_is_one_download_error(server, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BACKOFF_SECONDS", 0.0)
    server.answer = HOSTILE[kind]
    with pytest.raises(DownloadError) as error:
        fetch(NAME)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1_500
    assert "x.npz" not in left(tmp_path)


def dripping(start, rest):
    """A server that sends `start` and then a byte every 20 ms."""

    def answer():
        yield start
        for byte in itertools.cycle(rest):
            time.sleep(0.02)
            yield bytes([byte])

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (dripping(OK + b"X-A: ", b"a"), "headers took more than"),
        (dripping(OK, b"X-A: a\r\n"), "headers took more than"),
        (dripping(length(10**6), b"x"), "bytes came in"),
        (dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"), "bytes came in"),
        (dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "bytes came in"),
    ],
    ids=["one header", "headers", "body", "size of a chunk", "chunks"],
)
def test_a_byte_now_and_then_is_a_lost_connection(server, tmp_path, monkeypatch, answer, message):
    monkeypatch.setattr(urls, "_PACE_SECONDS", 0.2)
    monkeypatch.setattr(urls, "_HEADER_SECONDS", 0.2)
    monkeypatch.setattr(download, "_MAX_ATTEMPTS", 2)
    server.answer = answer
    start = time.monotonic()
    with pytest.raises(DownloadError, match=message):
        fetch(NAME)
    assert time.monotonic() - start < 10
    assert "x.npz" not in left(tmp_path)


PAGE = b"<!DOCTYPE html><html>Please log in</html>"


@pytest.mark.parametrize("ending", ["npz", "safetensors", "h5", "keras", "json", "txt", "csv"])
@pytest.mark.parametrize("body", [b"", PAGE], ids=["empty", "page"])
def test_a_body_that_does_not_open_as_its_format_is_not_kept(server, tmp_path, ending, body):
    server.answer = length(len(body), body)
    with pytest.raises(DownloadError, match=r"(is empty|is no \.|is a web page).*Nothing was kept"):
        fetch(f"gs://vit_models/x.{ending}")
    assert left(tmp_path) == []


def endless(start):
    def parts():
        yield start
        while True:
            yield b"8000\r\n" + b"x" * 0x8000 + b"\r\n"

    return parts


@pytest.mark.parametrize("known", [{"num_bytes": 100_000}, {"sha256": "0" * 64}, {}])
def test_an_endless_body_is_stopped_where_it_is_known_to_be_too_long(
    server, tmp_path, monkeypatch, known
):
    monkeypatch.setattr(download, "_MAX_UNKNOWN_BYTES", 1 << 20)
    server.answer = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    most = []
    write = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: most.append(os.fstat(fd).st_size) or write(fd))
    limit = known.get("num_bytes", 1 << 20)
    with pytest.raises(DownloadError, match=f"sends more than {limit} bytes. Nothing was kept"):
        fetch(NAME, **known)
    assert left(tmp_path) == []


def test_an_endless_body_leaves_space_on_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SPACE_CHECK_BYTES", 1 << 16)
    monkeypatch.setattr(download, "_free_bytes", lambda folder: 1 << 20)
    server.answer = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(DownloadError, match="the disk is nearly full. Nothing was kept"):
        fetch(NAME)
    assert left(tmp_path) == []


def test_a_full_disk_keeps_no_part(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.tqdm.tqdm, "update", full)
    server.answer = length(30, b"x" * 30)
    with pytest.raises(DownloadError, match="No space left on device. Free some space"):
        fetch(NAME)
    assert left(tmp_path) == []


def test_an_endless_body_of_a_redirect_is_not_read(server, monkeypatch):
    def parts():
        yield b"HTTP/1.1 302 X\r\nLocation: https://127.0.0.1:9/x.npz\r\n\r\n"
        while True:
            yield b"x" * 65536

    monkeypatch.setattr(download, "_MAX_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(download, "_MAX_IDLE_ATTEMPTS", 1)
    server.answer = parts
    start = time.monotonic()
    with pytest.raises(DownloadError):
        fetch(NAME)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["x.npz", "x.npz.part-data", "x.npz.part-validator", "x.npz.lock"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_nothing_is_written_through_what_is_planted_in_the_cache(server, tmp_path, name, kind):
    victim, folder = tmp_path / "victim", tmp_path / "home" / "vit_models"
    victim.write_text("kept")
    folder.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(victim)
    server.answer = length(len(ZIP), ZIP)
    with contextlib.suppress(DownloadError):
        fetch(NAME)
    assert victim.read_text() == "kept"


def test_a_part_remembers_length_and_type(server, tmp_path):
    folder = tmp_path / "home" / "vit_models"
    folder.mkdir(parents=True)
    (folder / "x.npz.part-data").write_bytes(ZIP[:10])
    facts = {"validator": '"one"', "total": len(ZIP) + 1, "content_type": ""}
    (folder / "x.npz.part-validator").write_text(json.dumps(facts))
    rest = ZIP[10:]
    whole = length(len(ZIP), ZIP)
    asked = []

    def parts():
        asked.append(1)
        if len(asked) > 1:
            yield whole
            return
        span = f"bytes 10-{len(ZIP) - 1}/{len(ZIP)}"
        head = f'HTTP/1.1 206 X\r\nETag: "one"\r\nContent-Range: {span}\r\n'
        yield f"{head}Content-Length: {len(rest)}\r\n\r\n".encode() + rest

    server.answer = parts
    assert fetch(NAME).read_bytes() == ZIP
    assert len(asked) == 2, "a part of another length is not joined"


@pytest.mark.parametrize(
    "address",
    [
        "https://[::1/x",
        "https://x:99999999/y",
        "https://x:y/z",
        "https://\ud800/x",
        "https://a..b/x",
    ],
    ids=range(5),
)
def test_addresses_that_are_none_are_one_value_error_of_ours(address):
    with pytest.raises(ValueError, match="An address must") as error:
        urls.locate(address)
    assert error.traceback[-1].path.name == "urls.py"
    assert pathlib.Path(str(error.traceback[-1].path)).parent.name == "download"


def test_retry_after_is_bounded():
    assert headers.retry_after({"Retry-After": "9" * 5_000}) == 0.0
    assert headers.retry_after({"Retry-After": "99999"}) == headers.MAX_RETRY_SECONDS
    assert headers.retry_after({}) == 0.0
