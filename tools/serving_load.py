"""Asks a server of an export many things at once, some of them bad, and checks every answer.

    python tools/serving_load.py --server=stand_in --saved_model=serving/error/1 --bad=0.3
    python tools/serving_load.py --server=ray --saved_model=serving/mark/1

Starts the server on 127.0.0.1 (tools/stand_in_server.py, which is not TensorFlow Serving, or
examples/serve_with_ray.py; the exports are made with --on_bad_image=error and mark), sends seeded
requests from some clients at once, and ends it.  Each good request must have the scores that the
SavedModel gives for it alone; each bad one a code of 4xx and a reason.  Prints one JSON object:
counts, throughput, latencies, the server's resident memory early and at the end.  Exits with 1 if
anything is wrong, such as a process of the server that was replaced.
"""

import base64
import collections
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("server", "stand_in", ["stand_in", "ray"], "What is asked.")
flags.DEFINE_string("saved_model", None, "Folder of a version.", required=True)
flags.DEFINE_integer("requests", 5000, "How many.", lower_bound=10)
flags.DEFINE_integer("clients", 16, "How many at once.", lower_bound=1)
flags.DEFINE_float("bad", 0.1, "Share of bad requests.", lower_bound=0, upper_bound=1)
flags.DEFINE_integer("max_batch_size", 8, "Batching of the Ray server; 1: none.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_float("time_limit", 900, "Seconds after which it has failed.")

ROOT = pathlib.Path(__file__).parents[1]
PORT = 18501
# In a batch with others libraries may choose other kernels: 1e-5 of the largest score.
TOLERANCES = {"stand_in": 0.0, "ray": 1e-5}
EARLY = 0.2  # share of the requests after which the memory is looked at first


def body(images, **fields):
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]
    return json.dumps({"instances": instances, **fields}).encode()


def png_header(height, width):
    """A PNG that says that it is large, and holds nothing."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = zlib.crc32(b"IHDR" + data)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + data + struct.pack(">I", crc)


def good_images(rng, count=20):
    """Encoded photographs-to-be of several sizes, JPEG and PNG."""
    images = []
    for i in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
        size = [(480, 640), (224, 224), (97, 331), (33, 20)][i % 4]
        pixels = tf.cast(
            tf.clip_by_value(tf.image.resize(coarse, size, "bicubic"), 0, 255), tf.uint8
        )
        images.append((tf.io.encode_png if i % 5 == 4 else tf.io.encode_jpeg)(pixels).numpy())
    return images


def bad_bodies(good, image_size):
    """Name -> body of requests that every server must refuse."""
    height, width = image_size
    jpeg, png = good[0], good[4]
    one = {"image_bytes": {"b64": base64.b64encode(jpeg).decode()}}
    bodies = {
        "empty image": body([b""]),
        "text": body([b"this is not an image"]),
        "html": body([b"<html><body>404</body></html>"]),
        "truncated jpeg": body([jpeg[: len(jpeg) // 2]]),
        "jpeg without end": body([jpeg[:-2]]),
        "truncated png": body([png[:-20]]),
        "huge png": body([png_header(100_000, 100_000)]),
        "overflowing png": body([png_header(2**31 - 1, 2**31 - 1)]),
        "png without pixels": body([png_header(0, 7)]),
        "scan bomb": body([jpeg[:-2] + b"\xff\xda" * 1000 + b"\xff\xd9"]),
        "gif": body([b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"]),
        "webp": body([b"RIFF\x24\x00\x00\x00WEBPVP8 "]),
        "bmp": body([b"BM" + bytes(60)]),
        "tiff": body([b"II*\x00" + bytes(60)]),
        "jpeg xl": body([b"\xff\x0a" + bytes(130)]),
        "random bytes": body([np.random.default_rng(1).bytes(5000)]),
        "one bad of three": body([jpeg, b"bad", png]),
        "wrong field": json.dumps({"instances": [{"image": one["image_bytes"]}]}).encode(),
        "no base64": json.dumps({"instances": [{"image_bytes": {"b64": "&&&"}}]}).encode(),
        "number for an image": json.dumps({"instances": [{"image_bytes": 7}]}).encode(),
        "null": json.dumps({"instances": [None]}).encode(),
        "no instances": b"{}",
        "empty instances": json.dumps({"instances": []}).encode(),
        "instances of text": json.dumps({"instances": "abc"}).encode(),
        "a list": b"[1, 2]",
        "no json": b"\xff\xfe{",
        "empty body": b"",
        "deep json": b"[" * 100_000,
        "unknown signature": body([jpeg], signature_name="nothing"),
    }
    if FLAGS.server == "ray":
        return bodies
    tensor = np.zeros((height, width, 3)).tolist()
    several = {
        "scalar tensor": 1.0,
        "tensor of rank 1": [1.0, 2.0],
        "tensor of rank 2": [[1.0]],
        "tensor of rank 3": [[[1.0, 2.0, 3.0]]],
        "another size": np.zeros((height + 1, width, 3)).tolist(),
        "4 channels": np.zeros((height, width, 4)).tolist(),
        "tensor of rank 5": [tensor],
        "ragged": [[[1.0], [1.0, 2.0]]],
        "text for a tensor": "abc",
        "NaN": np.full((height, width, 3), np.nan).tolist(),
    }
    for name, value in several.items():
        request = {"signature_name": "tensors", "instances": [{"tensors": value}]}
        bodies[name] = json.dumps(request).encode()
    for name, shape in {
        "image of rank 2": (4, 4),
        "no pixels": (0, 4, 3),
        "grey": (4, 4, 1),
    }.items():
        request = {"signature_name": "images", "instances": [np.zeros(shape, int).tolist()]}
        bodies[name] = json.dumps(request).encode()
    bodies["10,000 images"] = body([png_header(1, 1)] * 10_000)
    return bodies


class Client(threading.local):
    """A connection for each thread, made again when the server closed it."""

    connection = None

    def ask(self, data):
        """(code, answer); a request that dies with its connection is not sent twice."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        headers = {"Content-Type": "application/json"}
        try:
            self.connection.request("POST", "/v1/models/vit:predict", data, headers)
            response = self.connection.getresponse()
            answer = json.loads(response.read())
            return response.status, answer
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise


def cut_connection(data):
    """Sends half a request and goes away."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as connection:
        head = ["POST /v1/models/vit:predict HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + data[: len(data) // 2])


def process_table():
    """pid -> command line."""
    table = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                table[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
            except OSError:
                continue
    return table


def resident_bytes(pids):
    pages = [int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def start_server():
    """The server's process, and the pids of the processes that hold the model."""
    before = set(process_table())
    arguments = {
        "stand_in": ["tools/stand_in_server.py", f"--rest_port={PORT}"],
        "ray": [
            "examples/serve_with_ray.py",
            f"--port={PORT}",
            f"--max_batch_size={FLAGS.max_batch_size}",
        ],
    }[FLAGS.server]
    process = subprocess.Popen(
        [sys.executable, *arguments, f"--saved_model={FLAGS.saved_model}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    line = process.stdout.readline()
    while line and not line.startswith((b"ready", b"{")):
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server ended with {process.wait()}")
    if FLAGS.server == "stand_in":
        return process, {process.pid}
    new = {pid: text for pid, text in process_table().items() if pid not in before}
    return process, {pid for pid, text in new.items() if text.startswith("ray::ServeReplica")}


def run(good, references, bad):
    """Sends everything; returns (latencies, codes of the bad, what is wrong, seconds, memory)."""
    client, memory = Client(), {}
    process, pids = start_server()
    wrong, codes, latencies = [], collections.Counter(), []
    tolerance = TOLERANCES[FLAGS.server]

    def one(i):
        rng = random.Random(FLAGS.seed * 10**9 + i)
        if rng.random() < FLAGS.bad:
            name = rng.choice([*sorted(bad), "cut connection"])
            if name == "cut connection":
                return cut_connection(body(good[:1]))
            code, answer = client.ask(bad[name])
            codes[code] += 1
            if not 400 <= code < 500 or not answer.get("error"):
                wrong.append(f"{name!r} gets {code}")
            return None
        which = rng.randrange(len(good))
        start = time.perf_counter()
        code, answer = client.ask(body([good[which]]))
        latencies.append(time.perf_counter() - start)
        if code != 200:
            wrong.append(f"image {which} gets {code}: {str(answer)[:200]}")
            return None
        scores = np.array(answer["predictions"][0]["scores"], np.float32)
        scale = np.abs(references[which]).max()
        if not np.abs(scores - references[which]).max() <= tolerance * scale:
            wrong.append(f"image {which} has other scores")
        return None

    try:
        early = max(1, int(EARLY * FLAGS.requests))
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(FLAGS.clients) as pool:
            for i, _ in enumerate(pool.map(one, range(FLAGS.requests))):
                if i + 1 == early:
                    memory["early"] = resident_bytes(pids)
                if time.perf_counter() - begin > FLAGS.time_limit:
                    pool.shutdown(cancel_futures=True)
                    raise RuntimeError(f"only {i + 1} requests in {FLAGS.time_limit} s")
        seconds = time.perf_counter() - begin
        memory["end"] = resident_bytes(pids)
        alive = pids <= set(process_table())
    finally:
        process.send_signal(signal.SIGINT if FLAGS.server == "ray" else signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    if not alive:
        wrong.append("the server's process was replaced")
    return latencies, codes, wrong, seconds, memory


def main(argv):
    del argv
    loaded = tf.saved_model.load(FLAGS.saved_model)
    functions = loaded.signatures
    good = good_images(np.random.default_rng(FLAGS.seed))
    references = [
        functions["serving_default"](image_bytes=tf.constant([image]))["scores"].numpy()[0]
        for image in good
    ]
    shape = functions["tensors"].structured_input_signature[1]["tensors"].shape
    bad = bad_bodies(good, shape[1:3])
    rule = {"stand_in": "error", "ray": "mark"}[FLAGS.server]
    if ("error" in functions["serving_default"].structured_outputs) != (rule == "mark"):
        raise app.UsageError(f"--server={FLAGS.server} takes an export of --on_bad_image={rule}")
    latencies, codes, wrong, seconds, memory = run(good, references, bad)
    cuts = statistics.quantiles([1000 * latency for latency in latencies], n=100)
    growth = memory["end"] / memory["early"] - 1
    if growth > 0.05:
        wrong.append(f"memory grows by {growth:.1%}")
    report = {
        "server": FLAGS.server,
        "requests": FLAGS.requests,
        "good": len(latencies),
        "bad": {str(code): count for code, count in sorted(codes.items())},
        "kinds_of_bad": len(bad) + 1,
        "clients": FLAGS.clients,
        "max_batch_size": FLAGS.max_batch_size,
        "requests_per_second": round(FLAGS.requests / seconds, 1),
        "milliseconds": {p: round(cuts[p - 1], 1) for p in (50, 95, 99)},
        "megabytes": {key: round(value / 1e6) for key, value in memory.items()},
        "memory_growth": round(growth, 4),
        "wrong": wrong[:20],
        "num_wrong": len(wrong),
    }
    print(json.dumps(report, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    app.run(main)
