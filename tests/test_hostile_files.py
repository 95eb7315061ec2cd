"""Files made to run code or to take all memory: refused, in a process that watches itself.

Each group of files is loaded by one child, with an audit hook for what loading data never does, the
peak of its memory, and a limit on its address space.
"""

import io
import json
import os
import pathlib
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest

import keras_vit

REFERENCE = pathlib.Path(__file__).parent / "reference"
MAX_SECONDS = 2.0
MAX_BYTES = 300 << 20

# argv: a good .npz, .safetensors, .keras and .weights.h5 file of one model; stdin: paths.
CHILD = """
import json, os, pathlib, resource, signal, sys, time
import keras_vit
from keras_vit import load_weights, from_pretrained
good = sys.argv[1:5]
model = from_pretrained(good[2])
def load(path):
    return load_weights(model, path) if path.endswith(".h5") else from_pretrained(path)
for path in good:  # what is imported once is imported here
    load(path)
    load_weights(model, path)
    try:
        load(path + ".none" + "".join(pathlib.Path(path).suffixes))
    except keras_vit.CheckpointError as error:
        str(error)
variables = lambda: b"".join(w.tobytes() for w in model.get_weights())
before, events, armed = variables(), [], False
WATCHED = ("exec", "compile", "import", "os.", "shutil.", "subprocess.", "socket.", "tempfile.",
           "pickle.", "marshal.", "ctypes.", "urllib.", "pty.", "webbrowser.", "builtins.input")
LISTING = ("os.listdir", "os.scandir", "os.fwalk", "os.walk")
def hook(event, arguments):
    if not armed:
        return
    if event == "open":
        name, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            events.append(f"open {name!r} for writing")
    elif event.startswith(WATCHED) and event not in LISTING:
        events.append(f"{event} {arguments!r:.80}")
sys.addaudithook(hook)
def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
limit = status("VmSize") + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
results = []
for path in json.load(sys.stdin):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    base, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    signal.alarm(60)
    armed = True
    try:
        load(path)
        outcome = "loaded"
    except keras_vit.CheckpointError as error:
        outcome = f"CheckpointError {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__} {error}"
    armed = False
    results.append({
        "path": path, "outcome": outcome[:500], "events": events[:5],
        "seconds": time.process_time() - cpu, "bytes": status("VmHWM") - base,
        "unchanged": variables() == before,
    })
    events.clear()
armed = True
eval("1")
armed = False
print(json.dumps([results, events]))
"""


def encoder():
    return keras_vit.create_model(
        "ViT-B/16", patch_size=8, hidden_size=8, mlp_dim=12, num_heads=2, depth=1,
        image_size=16, num_classes=5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The four good files of one small model."""
    folder, model = tmp_path_factory.mktemp("good"), encoder()
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    for ending in (".npz", ".safetensors"):
        keras_vit.save_pretrained(model, folder / f"model{ending}")
    return {e: folder / f"model{e}" for e in (".npz", ".safetensors", ".keras", ".weights.h5")}


def results_of(good, paths, folder):
    command = [sys.executable, "-c", CHILD, *map(str, good.values())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(folder), str(pathlib.Path(keras_vit.__file__).parents[1])]
        ),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    result = subprocess.run(
        command, input=json.dumps([str(path) for path in paths]), text=True,
        capture_output=True, env=environment, cwd=folder, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    results, control = json.loads(result.stdout.splitlines()[-1])
    assert control, "the audit hook sees nothing"
    return results


# ---- files that would run code -------------------------------------------------------------------


class Bomb:
    """A pickle of it makes the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def rewritten(good, target, changes=None, extra=()):
    """A zip archive with some members changed and others added."""
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= changes or {}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in (*members.items(), *extra):
            archive.writestr(name, content)


def with_config(good, target, change):
    with zipfile.ZipFile(good) as archive:
        config = json.loads(archive.read("config.json"))
    rewritten(good, target, {"config.json": json.dumps(change(config) or config)})


def h5_inside(good, target, change):
    """A `.keras` file whose weights are changed."""
    with zipfile.ZipFile(good) as archive:
        buffer = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(buffer, "r+") as file:
        change(file)
    rewritten(good, target, {"model.weights.h5": buffer.getvalue()})


def malicious_files(good, folder, canary):
    """All files that would make the canary, read what they should not, or import a module."""
    (folder / "canary_module.py").write_text(f"open({str(canary)!r}, 'w')\n")
    pickled = pickle.dumps(Bomb(canary))
    for ending in good:
        (folder / f"pickle{ending}").write_bytes(pickled)
    objects = npy(np.array([Bomb(canary)], dtype=object))
    rewritten(good[".npz"], folder / "objects.npz", {"cls.npy": objects})
    code = f"__import__('os').system('touch {canary}')"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({code},), }}\n".encode()
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 4
    rewritten(good[".npz"], folder / "header.npz", {"cls.npy": member})

    for ending, name in ((".npz", "extra.npy"), (".keras", "assets")):
        link = zipfile.ZipInfo(name)
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        rewritten(good[ending], folder / f"symlink{ending}", extra=[(link, str(canary))])
        traversal = [(f"../../{canary.name}", b"x"), (str(canary), b"x")]
        rewritten(good[ending], folder / f"traversal{ending}", extra=traversal)

    lambda_model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(touch_canary)])
    lambda_model.save(folder / "lambda.keras")
    named = {
        "layer": ("keras.layers", "Lambda", {"function": "print"}),
        "savedmodel": ("keras.layers", "TFSMLayer", {"filepath": str(folder)}),
        "system": ("os", "system", f"touch {canary}"),
        "get_file": ("keras.utils", "get_file", {"origin": "http://127.0.0.1:9/x"}),
        "module": ("canary_module", "Anything", {}),
        "entry_point": ("importlib.metadata", "entry_points", {}),
    }
    for label, (module, class_name, config) in named.items():
        value = {"module": module, "class_name": class_name, "config": config}
        value["registered_name"] = class_name
        with_config(good[".keras"], folder / f"{label}_model.keras", lambda _, v=value: v)
        ours = {**value, "registered_name": "keras_vit>VisionTransformer"}
        with_config(good[".keras"], folder / f"{label}_ours.keras", lambda _, v=ours: v)

        def in_field(config, value=value):
            config["config"]["config"]["gelu"] = value

        def in_dtype(config, value=value):
            config["config"]["dtype"] = value
            config["compile_config"] = {"optimizer": value, "loss": value}
            config["config"]["more"] = value

        with_config(good[".keras"], folder / f"{label}_field.keras", in_field)
        with_config(good[".keras"], folder / f"{label}_dtype.keras", in_dtype)

    def external_link(file):
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(good[".weights.h5"]), "/a")

    def soft_link(file):
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.SoftLink("/layers/dense/vars/1")

    def virtual(file):
        shape = file["layers/dense/vars/0"].shape
        del file["layers/dense/vars/0"]
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource(str(good[".weights.h5"]), "a", shape)
        file.create_virtual_dataset("layers/dense/vars/0", layout)

    def external_storage(file):
        shape = file["layers/dense/vars/0"].shape
        del file["layers/dense/vars/0"]
        place = [(str(good[".weights.h5"]), 0, 4 * int(np.prod(shape)))]
        file.create_dataset("layers/dense/vars/0", shape, "f4", external=place)

    for change in (external_link, soft_link, virtual, external_storage):
        h5_inside(good[".keras"], folder / f"{change.__name__}.keras", change)
        path = folder / f"{change.__name__}.weights.h5"
        path.write_bytes(good[".weights.h5"].read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)

    shards = {"weight_map": {"a": "../../good/model.safetensors", "b": "/etc/x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    made_here = {"canary_module.py"}
    return [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in made_here]


def touch_canary(x):
    open(os.environ["KERAS_VIT_CANARY"], "w").close()
    return x


@pytest.mark.tensorflow_only
def test_nothing_in_a_file_is_run_followed_imported_or_written(good, tmp_path):
    canary, folder = tmp_path / "canary", tmp_path / "files"
    folder.mkdir()
    paths = malicious_files(good, folder, canary)
    assert len(paths) > 40
    before = sorted(p.name for p in folder.iterdir())
    for result in results_of(good, paths, folder):
        assert result["outcome"].startswith("CheckpointError"), result
        assert not result["events"], result
        assert result["unchanged"], result
    assert not canary.exists()
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before
    # The canary sings where the files are opened as they want to be.
    with zipfile.ZipFile(folder / "objects.npz") as archive:
        np.load(io.BytesIO(archive.read("cls.npy")), allow_pickle=True)
    assert canary.exists()


# ---- files that would take all memory ------------------------------------------------------------


def npz_of(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def sparse(path, start, size, end=b""):
    """A file of a given size that takes no space."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size - len(end))
        file.seek(size - len(end))
        file.write(end)


def zip_bombs(good, folder):
    with np.load(good[".npz"]) as file:
        arrays = {key: file[key] for key in file.files}
    zeros = np.zeros((1000, 1000, 20), "float32")
    np.savez_compressed(folder / "thousandfold.npz", **arrays, extra=zeros)
    wide = {**arrays, "head/kernel": np.zeros((8, 3 * 10**6), "f4"), "head/bias": zeros[0, 0, :5]}
    np.savez_compressed(folder / "wide.npz", **wide)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64
    rewritten(good[".npz"], folder / "shape.npz", {"cls.npy": huge})
    deep = "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 65000 + "}\n"
    deep = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(deep)) + deep.encode()
    rewritten(good[".npz"], folder / "deep.npz", {"cls.npy": deep})
    rewritten(good[".npz"], folder / "nested.npz", {"cls.npy": good[".npz"].read_bytes()})
    npz_of(folder / "members.npz", {f"{i}.npy": b"" for i in range(100_000)})
    # A directory of 1 GB: names, if they were read.
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9000, 9000, 1 << 30, 4, 0)
    sparse(folder / "names.npz", b"PK\x03\x04", (1 << 30) + 26, end)
    overlapping_members(folder / "overlap.npz")
    empty = {
        "pos_embedding": np.zeros((1, 4, 8), "f4"),
        "embedding/kernel": np.zeros((8, 8, 3, 8), "f4"),
        "Transformer/encoderblock/LayerNorm_0/scale": np.zeros((10**9, 0), "f4"),
        "Transformer/encoderblock/LayerNorm_0/bias": np.zeros((10**9, 0), "f4"),
    }
    np.savez(folder / "empty.npz", **empty)


def overlapping_members(path):
    """Five hundred members that are one and the same megabyte."""
    data = npy(np.ones(250_000, "float32"))
    checksum, parts = zlib.crc32(data), []
    local = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, checksum, len(data), len(data), 5, 0
    )
    for i in range(500):
        parts.append(
            struct.pack(
                "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, checksum, len(data), len(data),
                5, 0, 0, 0, 0, 0, 0,
            )
            + f"{i % 10}.npy"[:5].encode()
        )  # fmt: skip
    directory = b"".join(parts)
    start = len(local) + 5 + len(data)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 500, 500, len(directory), start, 0)
    path.write_bytes(local + b"0.npy" + data + directory + end)


def keras_bombs(good, folder):
    with zipfile.ZipFile(good[".keras"]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    blank = bytes(100 << 20)
    for name in ("config.json", "model.weights.h5"):
        npz_of(folder / f"{name}.keras", {**members, name: blank}, zipfile.ZIP_DEFLATED)
    nested = b"[" * (2 << 20)
    lists = b'{"a": [' + b"[]," * 1_300_000 + b"[]]}"
    for label, text in (("nested", nested), ("lists", lists)):
        npz_of(folder / f"{label}.keras", {**members, "config.json": text})
    changes = {
        "depth": {"depth": 10**9},
        "width": {"hidden_size": 10**9},
        "stages": {"stage_depths": [10**9]},
        "sines": {"position_embedding": "sincos2d", "image_size": [10**6, 10**6], "depth": 1},
        "classes": {"num_classes": 10**12},
        "number": {"num_classes": 10**4000},
    }
    for label, fields in changes.items():

        def change(config, fields=fields):
            config["config"]["config"] |= fields
            if "image_size" in fields:
                config["config"]["preprocessing"]["image_size"] = fields["image_size"]

        with_config(good[".keras"], folder / f"{label}.keras", change)


def h5_bombs(good, folder):
    def changed(label, change):
        path = folder / f"{label}.weights.h5"
        path.write_bytes(good[".weights.h5"].read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)

    def fill_values(file):
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", (10**12,), "f4", fillvalue=1.0)

    def filters(file):
        del file["layers/dense/vars/0"]
        shape = (1 << 16, 1 << 10)
        options = {"chunks": (1 << 12, 1 << 10), "compression": "gzip", "compression_opts": 9}
        data = file.create_dataset("layers/dense/vars/0", shape, "f4", **options)
        data[: 1 << 12] = 1

    def one_chunk(file):
        del file["layers/dense/vars/0"]
        size = (1 << 30) - 1
        file.create_dataset("layers/dense/vars/0", (size,), "f4", chunks=(size,), fillvalue=2.0)

    def cycle(file):
        file["layers/dense/again"] = file["layers"]

    def groups(file):
        for i in range(12_000):
            file.create_group(f"layers/{i}")

    for change in (fill_values, filters, one_chunk, cycle, groups):
        changed(change.__name__, change)
    # A B-tree that leads back to itself, and names that each are all of a long heap.
    data = bytearray(good[".weights.h5"].read_bytes())
    place = data.index(b"TREE")
    data[place + 5] = 1
    data[place + 32 : place + 40] = place.to_bytes(8, "little")
    (folder / "tree.weights.h5").write_bytes(data)
    data = bytearray(good[".weights.h5"].read_bytes())
    place = data.index(b"HEAP")
    data[place + 8 : place + 16] = (1 << 62).to_bytes(8, "little")
    (folder / "heap.weights.h5").write_bytes(data)


def safetensors_bombs(folder):
    size = 100 << 20
    sparse(folder / "header.safetensors", struct.pack("<Q", size) + b"{", size + 8)
    for label, text in (
        ("lists", b'{"a": [' + b"[]," * 1_300_000 + b"[]]}"),
        ("nested", b'{"a":' + b"[" * 4_000_000),
        ("tables", b"{" + b",".join(b'"%d":{}' % i for i in range(300_000)) + b"}"),
        ("digits", b'{"a": ' + b"9" * 4_000_000 + b"}"),
    ):
        content = struct.pack("<Q", len(text)) + text
        (folder / f"{label}.safetensors").write_bytes(content)
    shards = {"weight_map": {str(i): f"{i}.safetensors" for i in range(90_000)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


@pytest.mark.tensorflow_only
def test_bombs_are_refused_in_two_seconds_and_300_mb(good, tmp_path):
    zip_bombs(good, tmp_path)
    keras_bombs(good, tmp_path)
    h5_bombs(good, tmp_path)
    safetensors_bombs(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 30
    for result in results_of(good, paths, tmp_path):
        assert result["outcome"].startswith("CheckpointError"), result
        assert result["bytes"] < MAX_BYTES, result
        assert result["seconds"] < MAX_SECONDS, result
        assert result["unchanged"], result
