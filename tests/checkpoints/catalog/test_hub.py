"""Models on the hub, from a server on this machine that plays it."""

import hashlib
import http.server
import json
import pathlib
import threading

import pytest

from keras_vit.checkpoints.catalog import hub, resolve
from keras_vit.checkpoints.download import fetch
from keras_vit.errors import CheckpointError, DownloadError

MODEL = pathlib.Path(__file__).parents[2] / "reference" / "torch" / "timm_named" / "test_vit"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories: name -> file name -> bytes.

    Attributes:
        answers: Statuses with which the next requests are answered in the place of a file.
        cut: Bytes after which the next file's connection ends.
        gated: Names of repositories that want the token.
        asked: (path, token or None) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.answers, self.cut, self.gated, self.asked = {}, [], [], set(), []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        token = self.headers.get("Authorization")
        self.server.asked.append((self.path, token))
        if self.server.answers:
            status = self.server.answers.pop(0)
            return self.answer(b"", status, {"Retry-After": "0"} if status == 429 else {})
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            owner, name, _, revision = path.removeprefix("api/models/").split("/")
            return self.of(f"{owner}/{name}", token, lambda files: self.listing(files, revision))
        if path.startswith("stored/"):
            _, owner, name, file = path.split("/")
            return self.of(f"{owner}/{name}", token, lambda files: self.file(files[file]))
        owner, name, _, commit, file = path.split("/")
        if commit != COMMIT or file not in self.server.repositories.get(f"{owner}/{name}", {}):
            return self.answer(b"", 404)
        # Large files lie elsewhere, on the same host.
        if file.endswith(".safetensors"):
            return self.answer(b"", 302, {"Location": f"/stored/{owner}/{name}/{file}"})
        return self.of(f"{owner}/{name}", token, lambda files: self.file(files[file]))

    def of(self, repository, token, serve):
        if repository in self.server.gated and token != f"Bearer {TOKEN}":
            return self.answer(b"", 401)
        if repository not in self.server.repositories:
            return self.answer(b"", 401)
        return serve(self.server.repositories[repository])

    def listing(self, files, revision):
        if revision not in ("main", "v1"):
            self.answer(b"", 404)
            return
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                **(
                    {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}}
                    if name.endswith(".safetensors")
                    else {}
                ),
            }
            for name, content in files.items()
        ]
        self.answer(json.dumps({"sha": COMMIT, "siblings": siblings}).encode())

    def file(self, content):
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        sent = body[: self.server.cut.pop(0)] if self.server.cut else body
        self.send_response(206 if start else 200)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = sent != body

    def answer(self, body, status=200, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    server = Hub()
    files = {p.name: p.read_bytes() for p in MODEL.iterdir() if p.name != "ref.npz"}
    server.repositories["timm/test_vit.r160_in1k"] = files
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(fetch, "_BACKOFF_SECONDS", 0.0)
    yield server
    server.shutdown()
    server.server_close()


def located(source):
    path, checkpoint = resolve.locate(source)
    assert checkpoint is None
    return path


@pytest.mark.parametrize(
    "source",
    [
        "hf://timm/test_vit.r160_in1k",
        "hf://timm/test_vit.r160_in1k@v1",
        "timm/test_vit.r160_in1k",
        "test_vit.r160_in1k",
        "{hub}/timm/test_vit.r160_in1k",
        "{hub}/timm/test_vit.r160_in1k/tree/v1",
        "{hub}/timm/test_vit.r160_in1k/resolve/main/model.safetensors",
        "{hub}/timm/test_vit.r160_in1k/blob/main/model.safetensors",
    ],
)
def test_weights_come_with_the_files_that_belong_to_them(source, server):
    path = located(source.format(hub=server.address))
    assert path.read_bytes() == (MODEL / "model.safetensors").read_bytes()
    config = json.loads((path.parent / "config.json").read_text())
    assert config["architecture"] == "test_vit"
    assert COMMIT in str(path)


def test_what_is_here_is_not_fetched_again_and_needs_no_network(server, monkeypatch):
    path = located("hf://timm/test_vit.r160_in1k")
    count = len(server.asked)
    monkeypatch.setenv("KERAS_VIT_OFFLINE", "1")
    assert located("hf://timm/test_vit.r160_in1k") == path
    assert len(server.asked) == count
    with pytest.raises(DownloadError, match="KERAS_VIT_OFFLINE"):
        located("hf://timm/another")


def test_a_cut_connection_and_a_busy_hub_are_asked_again(server):
    server.answers += [429, 503]
    server.cut += [100, 2000]
    path = located("hf://timm/test_vit.r160_in1k")
    assert path.read_bytes() == (MODEL / "model.safetensors").read_bytes()


def test_a_compressed_answer_is_refused(server, monkeypatch):
    gzip = {"Content-Encoding": "gzip"}
    monkeypatch.setattr(Handler, "listing", lambda self, *_: self.answer(b"\x1f\x8b", 200, gzip))
    with pytest.raises(DownloadError, match="compressed"):
        located("hf://timm/test_vit.r160_in1k")


def test_a_file_that_is_not_what_the_hub_says_is_refused(server):
    files = server.repositories["timm/test_vit.r160_in1k"]
    located("hf://timm/test_vit.r160_in1k@v1")
    path = located("hf://timm/test_vit.r160_in1k")
    path.unlink()
    damaged = bytearray(files["model.safetensors"])
    damaged[-1] ^= 1
    files["model.safetensors"] = bytes(damaged)
    with pytest.raises(DownloadError, match="sha256"):
        located("hf://timm/test_vit.r160_in1k")


def test_a_gated_repository_wants_a_token_that_nobody_sees(server, monkeypatch, caplog, tmp_path):
    server.gated.add("timm/test_vit.r160_in1k")
    with pytest.raises(DownloadError, match="private or gated.*HF_TOKEN"):
        located("hf://timm/test_vit.r160_in1k")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The redirect stays on the hub's host, and takes the token along.
    path = located("hf://timm/test_vit.r160_in1k")
    assert TOKEN not in caplog.text
    home = path.parents[5]
    assert not any(TOKEN.encode() in p.read_bytes() for p in home.rglob("*") if p.is_file())


def test_a_token_is_not_sent_to_another_host(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    elsewhere = Hub()
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    elsewhere.repositories["o/n"] = {"model.safetensors": b"x"}
    from keras_vit.checkpoints.download import urls

    original = Handler.do_GET
    target = f"{elsewhere.address}/stored/o/n/model.safetensors"

    def redirecting(handler):
        if handler.server is server:
            return handler.answer(b"", 302, {"Location": target})
        return original(handler)

    monkeypatch.setattr(Handler, "do_GET", redirecting)
    with urls.open_address(f"{server.address}/x", {}, TOKEN) as response:
        response.read()
    assert elsewhere.asked == [("/stored/o/n/model.safetensors", None)]
    elsewhere.shutdown()
    elsewhere.server_close()


def test_a_sharded_model_comes_with_all_its_parts(server):
    content = (MODEL / "model.safetensors").read_bytes()
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    server.repositories["o/n"] = {
        "model.safetensors.index.json": index.encode(),
        "model-1.safetensors": content,
        "model-2.safetensors": content,
        "config.json": b"{}",
    }
    path = located("hf://o/n")
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == [
        "config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"x"}, "never loaded"),
        ({"README.md": b"x"}, "there is no model.safetensors or"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'},
            "no file beside it",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "x.safetensors"}}'},
            "there is no x.safetensors",
        ),
    ],
)
def test_a_repository_without_weights_says_why(files, message, server):
    server.repositories["o/n"] = files
    with pytest.raises(CheckpointError, match=message):
        located("hf://o/n")


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b'{"sha": "main", "siblings": []}',
        b'{"sha": "%s"}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": [3]}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": [{"rfilename": "a", "size": -1}]}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": [{"rfilename": "a", "lfs": {"sha256": "x"}}]}'
        % COMMIT.encode(),
    ],
)
def test_an_answer_that_cannot_be_is_refused(answer, server, monkeypatch):
    monkeypatch.setattr(Handler, "listing", lambda self, *_: self.answer(answer))
    with pytest.raises(CheckpointError, match="hub's answer"):
        located("hf://timm/test_vit.r160_in1k")


@pytest.mark.parametrize("source", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b"])
def test_a_name_that_is_none_is_a_bad_argument(source):
    with pytest.raises(ValueError, match="hf://owner/name"):
        hub.find(source)


@pytest.mark.parametrize("source", ["model.safetensors", "imagenet21k/ViT-B_16", "gs://b/c.npz"])
def test_other_sources_are_not_the_hubs(source):
    assert hub.find(source) is None
