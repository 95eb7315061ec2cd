"""The serving examples over real HTTP and gRPC, on 127.0.0.1."""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data.images.decode import decode_image
from keras_vit.data.images.preprocess import evaluation_image

ROOT = pathlib.Path(__file__).parents[2]
CLIENT = ROOT / "examples" / "serving_client.py"
STAND_IN = ROOT / "tools" / "stand_in_server.py"
pytestmark = pytest.mark.tensorflow_only

# Of the largest logit; in a batch with others libraries may choose other kernels.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    model = keras_vit.create_model(
        "ViT-Ti/16", num_classes=3, image_size=32, depth=1, class_names=("a", "ö", "c")
    )
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(1).normal(0.0, 0.3, kernel.shape))
    return model


@pytest.fixture(scope="module", params=["error", "mark"])
def export(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:  # its own tests hold the check
        patch.setattr("keras_vit.serving.export.check_saved_model", lambda *_: None)
        return request.param, keras_vit.export(model, folder, on_bad_image=request.param)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(3):
        paths.append(folder / f"{i}.png")
        pixels = rng.integers(0, 256, (20 + 9 * i, 30, 3), dtype=np.uint8)
        paths[-1].write_bytes(tf.io.encode_png(pixels).numpy())
    paths.append(folder / "bad.png")
    paths[-1].write_bytes(b"<html>")
    return [str(path) for path in paths]


def expected_logits(model, path):
    pixels = evaluation_image(decode_image(pathlib.Path(path).read_bytes()), model.preprocessing)
    return model.predict(pixels.numpy()[np.newaxis], verbose=0)[0]


@contextlib.contextmanager
def running(*arguments, ready):
    """A server's process, once it has printed a line that `ready` takes; gives that line."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        line = next((line for line in process.stdout if ready(line)), None)
        assert line is not None, f"the server ended with {process.wait()}"
        yield line
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def ask(*arguments):
    done = subprocess.run(
        [sys.executable, str(CLIENT), *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def check_client(model, rule, address, files):
    code, answers = ask(address, *files[:3])
    assert code == 0
    for path, answer in zip(files, answers, strict=False):
        logits = expected_logits(model, path)
        assert answer["path"] == path
        assert answer["classes"][0][0] == model.class_names[np.argmax(logits)]
        probabilities = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1]
        received = [probability for _, probability in answer["classes"]]
        np.testing.assert_allclose(received, probabilities, atol=1e-5)
    code, answers = ask(address, files[0], files[3], files[1])
    assert code == 1
    if rule == "mark":
        assert [bool(answer["error"]) for answer in answers] == [False, True, False]
        assert answers[1]["classes"] == []
    else:
        (answer,) = answers
        assert "image 1: not a JPEG, PNG, WebP, GIF or BMP image" in answer["error"]


def test_client_rest_against_the_stand_in(model, export, files):
    rule, folder = export
    arguments = (STAND_IN, f"--saved_model={folder}", "--rest_port=0")
    with running(*arguments, ready=lambda line: line.startswith("{")) as line:
        port = json.loads(line)["rest"]
        check_client(model, rule, f"--rest=http://127.0.0.1:{port}", files)


def test_client_grpc_against_the_stand_in(model, export, files):
    pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    rule, folder = export
    arguments = (STAND_IN, f"--saved_model={folder}", "--rest_port=0", "--grpc_port=0")
    with running(*arguments, ready=lambda line: line.startswith("{")) as line:
        port = json.loads(line)["grpc"]
        check_client(model, rule, f"--grpc=127.0.0.1:{port}", files)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(port, body, path="/v1/models/vit:predict"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def encoded(data):
    return {"image_bytes": {"b64": base64.b64encode(data).decode()}}


def test_serve_with_ray_answers_good_and_refuses_bad(model, export, files):
    pytest.importorskip("ray.serve")
    rule, folder = export
    if rule == "error":
        pytest.skip("the example takes exports that mark bad images")
    port = free_port()
    images = [pathlib.Path(path).read_bytes() for path in files]
    arguments = (ROOT / "examples" / "serve_with_ray.py", f"--saved_model={folder.parent}")
    with running(*arguments, f"--port={port}", ready=lambda line: "ready: http" in line):
        assert ask(f"--rest=http://127.0.0.1:{port}", *files[:3])[0] == 0
        code, (answer,) = ask(f"--rest=http://127.0.0.1:{port}", *files)
        assert code == 1
        assert "image 3: not a JPEG" in answer["error"]
        bodies = [json.dumps({"instances": [encoded(image)]}) for image in images]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: post(port, bodies[i % 4]), range(32)))
        for i, (code, answer) in enumerate(answers):
            if i % 4 == 3:
                assert code == 400
                assert answer["error"].startswith(
                    "image 0: not a JPEG, PNG, WebP, GIF or BMP image"
                )
                continue
            assert code == 200
            logits = expected_logits(model, files[i % 4])
            scores = np.array(answer["predictions"][0]["scores"])
            assert np.abs(scores - logits).max() <= TOLERANCE * np.abs(logits).max()
        code, answer = post(port, json.dumps({"instances": [*map(encoded, images)]}))
        assert (code, answer["error"][:8]) == (400, "image 3:")
        for body, message in (
            (b"", "must be JSON"),
            (b"{}", "at least one instance"),
            (b'{"instances": [{"image": 1}]}', "instance 0 must be"),
            (b'{"instances": [{"image_bytes": {"b64": "&"}}]}', "instance 0 is not base64"),
            (b"[" * 100_000, "must be JSON"),
        ):
            code, answer = post(port, body)
            assert code == 400
            assert message in answer["error"]
        assert post(port, b"{}", "/v1/models/other:predict")[0] == 404
