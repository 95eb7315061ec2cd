"""Pictures through Ray Data: a worker is killed, and each picture is answered exactly once."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "predict_with_ray.py"
MODEL = "fashion_mnist/ViT-mini_4"


def write_pictures(folder, number):
    """`number` small pictures, of which every tenth is no picture; returns their paths."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"{index:05d}.png"
        if index % 10 == 3:
            path.write_bytes(b"<html>")
        else:
            Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8)).save(path)
    return sorted(map(str, folder.iterdir()))


def start(output, photos, *flags):
    return subprocess.Popen(
        [sys.executable, PROGRAM, f"--model={MODEL}", f"--output={output}", *flags, photos],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_of(parent):
    """The processes below `parent` that have the model."""
    parents, names = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(entry.name)] = int(re.search(r"^PPid:\s+(\d+)", status, re.M)[1])

    def is_below(process):
        while process in parents:
            if process == parent:
                return True
            process = parents[process]
        return False

    return [p for p, name in names.items() if re.search(r"ray::.*MapWorker", name) and is_below(p)]


def answers(output):
    for path in sorted(output.glob("part-*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.tensorflow_only
def test_each_picture_is_answered_once_though_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray.data")
    number = int(os.environ.get("KERAS_VIT_RAY_PICTURES", "240"))
    paths = write_pictures(tmp_path / "photos", number)
    output, flags = tmp_path / "answers", (f"--part_size={max(number // 40, 4)}", "--cpus=0.5")
    process = start(output, tmp_path / "photos", *flags)
    killed, ends = [], time.monotonic() + 400
    while process.poll() is None and not killed and time.monotonic() < ends:
        if len(list(output.glob("part-*.jsonl"))) >= 3:
            killed = workers_of(process.pid)[:1]
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.05)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text[-3000:]
    assert len(killed) == 1
    found = list(answers(output))
    assert collections.Counter(answer["path"] for answer in found) == dict.fromkeys(paths, 1)
    bad = {answer["path"] for answer in found if answer["error"]}
    assert bad == {path for path in paths if path.endswith("3.png")}
    assert all(len(answer["predictions"]) == 5 for answer in found if not answer["error"])

    # A part that is lost is done again, and another job is refused.
    before = (output / "part-00002.jsonl").read_text()
    (output / "part-00002.jsonl").unlink()
    text, _ = start(output, tmp_path / "photos", *flags).communicate(timeout=400)
    assert "1 to do" in text
    assert (output / "part-00002.jsonl").read_text() == before
    text, _ = start(output, tmp_path / "photos", *flags, "--top_k=2").communicate(timeout=400)
    assert "is of another job: top_k differ; name another folder" in text
