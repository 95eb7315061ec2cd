import base64
import concurrent.futures
import hashlib
import http.server
import io
import json
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from keras_vit.checkpoints.download import fetch as download
from keras_vit.checkpoints.download.fetch import fetch
from keras_vit.errors import DownloadError


def _archive(num_bytes):
    """A zip archive of so many bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo("x.npy")
        archive.writestr(member, bytes(range(256)) * (num_bytes // 256))
    content = (bytes(range(256)) * (num_bytes // 256))[: 2 * num_bytes - len(file.getvalue())]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, content)
    return file.getvalue()


_CONTENT = _archive(1 << 20)
_SHA256 = hashlib.sha256(_CONTENT).hexdigest()
_MD5 = base64.b64encode(hashlib.md5(_CONTENT).digest()).decode()
_URL = "gs://vit_models/imagenet21k/R50+ViT-B_16.npz"
_PATIENCE_SECONDS = 20.0


class _Server(http.server.ThreadingHTTPServer):
    """Serves `content`; each request takes the next dict of `script`, which says how to misbehave.

    `cut`: bytes of the body that are sent; `pause`: seconds before closing; `length`: what
    Content-Length says, None leaves it out, "chunked" sends chunks; `start`, `etag`,
    `ignore_range`: of a range; `status`: an answer without a file; `headers`: more of them."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.script, self.requests = _CONTENT, [], []
        self.headers = {"ETag": '"one"'}
        self.test_is_over = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        how = server.script.pop(0) if server.script else {}
        self.close_connection = True
        if "status" in how:
            self.send_response(how["status"])
            body = b""
        else:
            body = self._start(how)
        for header, value in how.get("headers", {}).items():
            self.send_header(header, value)
        length = how.get("length", len(body))
        if length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        elif length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: how.get("cut", len(body))])
        server.test_is_over.wait(how.get("pause", 0))

    def _start(self, how):
        """Sends the status line and the range's headers; returns the body."""
        server, total = self.server, len(self.server.content)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, *server.headers.values())
        start = int(wanted[1]) if wanted and same and not how.get("ignore_range") else None
        if start is None:
            self.send_response(200)
        elif start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
        else:
            self.send_response(206)
            start = how.get("start", start)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for header, value in server.headers.items():
            self.send_header(header, how.get("etag", value) if header == "ETag" else value)
        return server.content[start or 0 :]


@pytest.fixture
def server(tmp_path, monkeypatch):
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("KERAS_VIT_MIRROR", server.address)
        monkeypatch.delenv("KERAS_VIT_OFFLINE", raising=False)
        monkeypatch.setattr(download, "_BACKOFF_SECONDS", 0.0)
        yield server
        server.test_is_over.set()
        server.shutdown()
        thread.join()


def _left(tmp_path):
    """All files below the cache folder, as relative paths."""
    home = tmp_path / "home"
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def _ranges(server):
    return [headers.get("Range") for _, headers in server.requests]


_PLACE = "vit_models/imagenet21k/R50+ViT-B_16.npz"


def test_fetch_downloads_once_into_the_buckets_layout(server, tmp_path):
    path = fetch(_URL, num_bytes=len(_CONTENT), sha256=_SHA256)
    assert path == tmp_path / "home" / _PLACE == download.cached_path(_URL)
    assert path.read_bytes() == _CONTENT
    assert fetch(_URL) == path
    assert [p for p, _ in server.requests] == ["/vit_models/imagenet21k/R50%2BViT-B_16.npz"]
    assert _left(tmp_path) == [_PLACE]


def test_fetch_cut_connection_is_resumed_from_where_it_was(server, tmp_path):
    server.script = [{"cut": 1_000}, {"cut": 2_000}, {"cut": 3_000}]
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _ranges(server) == [None, "bytes=1000-", "bytes=3000-", "bytes=6000-"]
    assert {h.get("If-Range") for _, h in server.requests[1:]} == {'"one"'}
    assert _left(tmp_path) == [_PLACE]


def test_fetch_resumes_in_another_call_after_giving_up(server, tmp_path):
    server.script = [{"cut": 1_000}] + [{"status": 503}] * 5
    with pytest.raises(DownloadError, match="Gave up on .* with 1000 bytes: 503 .* is kept"):
        fetch(_URL)
    assert _left(tmp_path) == [f"{_PLACE}.part-data", f"{_PLACE}.part-validator"]
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _ranges(server)[-1] == "bytes=1000-"
    assert _left(tmp_path) == [_PLACE]


def test_fetch_changed_etag_starts_again(server, monkeypatch):
    def change(seconds):
        server.content, server.headers = _CONTENT, {"ETag": '"two"'}

    server.script = [{"cut": 1_000}]
    server.content = b"old" * 1_000
    monkeypatch.setattr(download.time, "sleep", change)
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _ranges(server) == [None, "bytes=1000-"]


@pytest.mark.parametrize("wrong", [{"etag": '"two"'}, {"start": 500}])
def test_fetch_part_that_does_not_fit_is_not_joined(server, wrong):
    server.script = [{"cut": 1_000}, wrong]
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _ranges(server) == [None, "bytes=1000-", None]


def test_fetch_server_ignoring_range_starts_again(server):
    server.script = [{"cut": 1_000}, {"ignore_range": True, "cut": 5_000}, {"ignore_range": True}]
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _ranges(server) == [None, "bytes=1000-", "bytes=5000-"]


@pytest.mark.parametrize(
    ("headers", "sha256", "resumed"),
    [
        ({}, None, None),
        ({"ETag": 'W/"weak"'}, None, None),
        ({}, _SHA256, "bytes=1000-"),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, None, "bytes=1000-"),
    ],
)
def test_fetch_resumes_only_what_can_be_checked(server, headers, sha256, resumed):
    server.headers = headers
    server.script = [{"cut": 1_000}]
    assert fetch(_URL, sha256=sha256).read_bytes() == _CONTENT
    assert _ranges(server) == [None, resumed]


@pytest.mark.parametrize(("more", "num_requests"), [(b"", 1), (b"more", 2)])
def test_fetch_part_that_is_complete_is_taken_and_a_longer_one_is_not(
    server, tmp_path, more, num_requests
):
    path = tmp_path / "home" / _PLACE
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part-data").write_bytes(_CONTENT + more)
    path.with_name(path.name + ".part-validator").write_text(
        json.dumps({"validator": '"one"', "total": len(_CONTENT), "content_type": ""})
    )
    assert fetch(_URL).read_bytes() == _CONTENT
    assert len(server.requests) == num_requests
    assert _left(tmp_path) == [_PLACE]


def test_fetch_length_claimed_too_long_gives_up(server, tmp_path):
    server.script = [{"length": 2 * len(_CONTENT)}] + [
        {"ignore_range": True, "length": 1 << 22}
    ] * 9
    with pytest.raises(DownloadError, match=r"Gave up .* was cut after \d+ of \d+ bytes"):
        fetch(_URL)
    assert _PLACE not in _left(tmp_path)


def test_fetch_length_claimed_too_short_fails_verification(server, tmp_path):
    server.script = [{"length": 5_000}] * 2
    with pytest.raises(DownloadError, match="has 5000 bytes instead of 1048576: another file"):
        fetch(_URL, num_bytes=len(_CONTENT))
    with pytest.raises(DownloadError, match="sha256 .* instead of .* Nothing was kept"):
        fetch(_URL, sha256=_SHA256)
    assert _left(tmp_path) == []


def test_fetch_announced_md5_is_verified(server, tmp_path):
    server.headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={_MD5}"
    server.script = [{"length": 5_000}]
    with pytest.raises(DownloadError, match="has the md5 .* Nothing was kept"):
        fetch(_URL)
    assert _left(tmp_path) == []
    assert fetch(_URL).read_bytes() == _CONTENT


def test_fetch_answer_without_content_length_is_complete_or_repeated(server):
    server.script = [{"length": None}, {"length": None, "cut": 1_000}]
    fetch(_URL, sha256=_SHA256).unlink()
    assert fetch(_URL, num_bytes=len(_CONTENT)).read_bytes() == _CONTENT
    assert _ranges(server) == [None, None, "bytes=1000-"]
    server.script = [{"length": "chunked", "cut": 1_000}, {"length": "chunked"}]
    assert fetch("gs://vit_models/chunked.npz").read_bytes() == _CONTENT
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ({"status": 404}, "404 Not Found. Check the name.*put it at"),
        ({"headers": {"Content-Encoding": "gzip"}}, "arrives compressed"),
        ({"length": None}, "states no length"),
    ],
)
def test_fetch_hopeless_answer_is_not_retried(server, tmp_path, answer, match):
    server.script = [answer]
    with pytest.raises(DownloadError, match=match):
        fetch(_URL)
    assert len(server.requests) == 1
    assert _left(tmp_path) == []


def test_fetch_busy_server_is_asked_again_as_late_as_it_wants(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.script = [
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 503, "headers": {"Retry-After": "9999"}},
    ]
    assert fetch(_URL).read_bytes() == _CONTENT
    assert pauses == [7.0, 30.0]


def test_fetch_unreachable_server_is_a_download_error(server, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="Gave up on http://127.0.0.1:9/.*refused"):
        fetch(_URL)


def test_fetch_redirect_is_followed_on_the_same_host_only(server):
    server.script = [{"status": 302, "headers": {"Location": f"{server.address}/elsewhere"}}]
    assert fetch(_URL).read_bytes() == _CONTENT
    for target in ("http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd"):
        server.script = [{"status": 302, "headers": {"Location": target}}]
        with pytest.raises(DownloadError, match="only https is followed|302 .*not allowed"):
            fetch("gs://vit_models/other.npz")


def test_fetch_cached_file_that_does_not_verify_is_kept_and_named(server):
    path = fetch(_URL)
    with pytest.raises(DownloadError, match=r"has 1048576 bytes instead of 1\. Delete it"):
        fetch(_URL, num_bytes=1)
    with pytest.raises(DownloadError, match="has the sha256"):
        fetch(_URL, sha256="0" * 64)
    assert path.read_bytes() == _CONTENT
    with pytest.raises(ValueError, match="64 hexadecimal digits. Received: 'abc'"):
        fetch(_URL, sha256="abc")


def test_fetch_offline_says_what_to_fetch_and_where_to_put_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "1")
    monkeypatch.delenv("KERAS_VIT_MIRROR")
    place = tmp_path / "home" / _PLACE
    address = "https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz"
    with pytest.raises(DownloadError, match=f"Fetch {address} .*put it at {re.escape(str(place))}"):
        fetch(_URL)
    assert _left(tmp_path) == []
    place.parent.mkdir(parents=True)
    place.write_bytes(b"put here")
    assert fetch(_URL) == fetch(address) == place
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "yes")
    with pytest.raises(ValueError, match="must be 0 or 1. Received: 'yes'"):
        fetch("gs://vit_models/other.npz")


def test_fetch_mirror_folder_is_read_in_place(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(DownloadError, match="KERAS_VIT_MIRROR is a folder without .*mirror/vit_m"):
        fetch(_URL)
    place = tmp_path / "mirror" / _PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(_CONTENT)
    assert fetch(_URL, sha256=_SHA256) == place
    with pytest.raises(DownloadError, match="instead of 3"):
        fetch(_URL, num_bytes=3)
    assert server.requests == []


def test_fetch_without_space_or_folder_names_the_path(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_free_bytes", lambda folder: 1_000)
    with pytest.raises(DownloadError, match="No space for .*R50.ViT-B_16.npz: 1048576 bytes to co"):
        fetch(_URL)
    assert _left(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="Cannot use .*/file.*KERAS_VIT_HOME to a folder"):
        fetch(_URL, cache_dir=tmp_path / "file")


def test_fetch_failing_write_names_the_path_and_keeps_no_lock(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="Cannot use .*npz: File too large. Free some"):
            fetch(_URL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{_PLACE}.lock" not in _left(tmp_path)
    assert fetch(_URL).read_bytes() == _CONTENT


def test_fetch_progress_goes_to_stderr_when_forced(server, capsys):
    fetch(_URL, progress=True)
    assert re.search(r"R50\+ViT-B_16.npz.*1\.00M", capsys.readouterr().err)
    fetch("gs://vit_models/silent.npz")
    assert capsys.readouterr().err == ""


def test_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path):
    holders, most, path = [], [], tmp_path / "x.lock"

    def hold(i):
        for _ in range(50):
            with download._lock(path):
                holders.append(i)
                most.append(len(holders))
                time.sleep(0.0001)
                holders.pop()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(8)))
    assert most == [1] * 400
    assert not path.exists()


# Not through the package's own import, which loads TensorFlow.
_CHILD = """
import sys, types
sys.modules["keras_vit"] = package = types.ModuleType("keras_vit")
package.__path__ = ["keras_vit"]
from keras_vit.checkpoints.download.fetch import fetch
print(fetch(sys.argv[1]))"""


def _start_child():
    command, root = [sys.executable, "-c", _CHILD, _URL], pathlib.Path(__file__).parents[3]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def test_fetch_two_processes_and_three_cuts_end_with_one_file(server, tmp_path):
    server.script = [{"cut": size, "pause": 0.3} for size in (1_000, 200_000, 300_000)]
    children = [_start_child(), _start_child()]
    outputs = [child.communicate(timeout=_PATIENCE_SECONDS)[0] for child in children]
    path = tmp_path / "home" / _PLACE
    assert outputs == [f"{path}\n"] * 2
    assert path.read_bytes() == _CONTENT
    assert _ranges(server) == [None, "bytes=1000-", "bytes=201000-", "bytes=501000-"]
    assert _left(tmp_path) == [_PLACE]


def test_fetch_after_a_killed_process_takes_over_its_lock_and_part(server, tmp_path):
    server.script = [{"cut": 600_000, "pause": _PATIENCE_SECONDS}]
    child = _start_child()
    part = tmp_path / "home" / f"{_PLACE}.part-data"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.communicate()
    assert f"{_PLACE}.lock" in _left(tmp_path)
    assert fetch(_URL).read_bytes() == _CONTENT
    assert _left(tmp_path) == [_PLACE]
