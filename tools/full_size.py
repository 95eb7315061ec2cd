"""Loads made-up files with the names, shapes and spelling of official ones; times and weighs it.

    python tools/full_size.py                           all of MODELS and FOLDERS, one by one
    python tools/full_size.py --model=ViT-H/14 --rounds=5

A file of random values is written to a temporary folder (2.6 GB for ViT-H/14, 4.6 GB for
DINOv2-g/14; a second one of that size when it is saved again) and removed.  Folders of transformers
and timm have their `config.json`.  `from_pretrained` and reading all arrays with NumPy run in turn,
each in a process of its own, with the file in the cache.
Some variables are compared with the file bit for bit, and every array of what `save_pretrained`
writes.  Memory is the rise of the peak over what the process has after its imports.
"""

import gzip
import json
import math
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "all", "A name of MODELS or FOLDERS, or all.")
flags.DEFINE_integer("rounds", 3, "How many alternating pairs are run.", lower_bound=1)
flags.DEFINE_string("folder", None, "Where the files are made; the system's temporary folder.")

MANIFESTS = pathlib.Path(__file__).parents[1] / "tests/reference/official_manifests.json.gz"
# name -> (entry of the manifests, classes).  The paper's models have a representation layer and the
# heads of ImageNet-21k; AugReg's have those heads without the layer.
MODELS = {
    "ViT-B/16": ("ViT-B_16@pre_logits-21k", 21843),
    "ViT-L/32": ("ViT-L_32@pre_logits-21k", 21843),
    "ViT-H/14": ("ViT-H_14@pre_logits-21k", 21843),
    "R50+ViT-B/16": ("R50+ViT-B_16@pre_logits-21k", 21843),
    "R26+ViT-S/32": ("R26+ViT-S_32", 21843),
    "R+ViT-Ti/16": ("R+ViT-Ti_16", 21843),
    "BiT-R101x3": (None, 21843),
}
# name -> (format, layout or None for its first, fields), as transformers and timm publish them.
FOLDERS = {
    "DINOv2-g/14": (
        "huggingface_dinov2",
        None,
        {
            "hidden_size": 1536,
            "mlp_dim": 4096,
            "num_heads": 24,
            "depth": 40,
            "patch_size": 14,
            "image_size": 518,
            "num_classes": 0,
            "gelu": "exact",
            "layer_scale": 1.0,
            "gated_mlp": True,
            "mask_token": True,
        },
    ),
    "SigLIP-So400m/14": (
        "huggingface_siglip",
        None,
        {
            "hidden_size": 1152,
            "mlp_dim": 4304,
            "num_heads": 16,
            "depth": 27,
            "patch_size": 14,
            "image_size": 384,
            "num_classes": 0,
            "partial_patches": True,
            "class_token": False,
            "pooling": "attention",
        },
    ),
    "CLIP-L/14": (
        "huggingface_clip",
        None,
        {
            "hidden_size": 1024,
            "mlp_dim": 4096,
            "num_heads": 16,
            "depth": 24,
            "patch_size": 14,
            "image_size": 224,
            "num_classes": 768,
            "gelu": "quick",
            "layer_norm_epsilon": 1e-5,
            "pre_norm": True,
            "patch_bias": False,
            "use_head_bias": False,
        },
    ),
    "DeiT-III-H/14": (
        "timm",
        "patch_positions",
        {
            "hidden_size": 1280,
            "mlp_dim": 5120,
            "num_heads": 16,
            "depth": 32,
            "patch_size": 14,
            "image_size": 224,
            "num_classes": 1000,
            "gelu": "exact",
            "layer_scale": 1e-6,
        },
    ),
}
# How many arrays that are ours as they are in the file are compared with it.
NUM_COMPARED = 40
# The published files number a block's parts through.
PUBLISHED = (
    ("/LayerNorm_1/", "/LayerNorm_2/"),
    ("/MultiHeadDotProductAttention_0/", "/MultiHeadDotProductAttention_1/"),
    ("/MlpBlock_0/", "/MlpBlock_3/"),
)
# Our variable -> the file's key, of which the bits are compared where a model has it.
COMPARED = {
    "embedding/kernel": "embedding/kernel",
    "posembed_input/embedding": "Transformer/posembed_input/pos_embedding",
    "encoderblock_3/attention/query_kernel": (
        "Transformer/encoderblock_3/MultiHeadDotProductAttention_1/query/kernel"
    ),
    "encoderblock_3/mlp/dense_2/kernel": "Transformer/encoderblock_3/MlpBlock_3/Dense_1/kernel",
    "pre_logits/kernel": "pre_logits/kernel",
    "gn_root/gamma": "gn_root/scale",
    "conv_root/kernel": "conv_root/kernel",
    "block2_unit1/conv2/kernel": "block2/unit1/conv2/kernel",
    "root_conv/kernel": "resnet/root_block/standardized_conv2d/kernel",
    "block3_unit9/conv1/kernel": "resnet/block3/unit09/a/standardized_conv2d/kernel",
    "head/kernel": "head/kernel",
    "head/bias": "resnet/head/conv2d/bias",
}


def official_shapes(name):
    """Key -> shape of an official file of a model, as published."""
    entry, num_classes = MODELS[name]
    if entry is None:
        return bit_shapes(name, num_classes)
    parameters = json.loads(gzip.decompress(MANIFESTS.read_bytes()))[entry]["parameters"]
    shapes = {}
    for key, shape in parameters.items():
        for new, old in PUBLISHED:
            key = key.replace(new, old)
        parent = key.split("/")[-2] if "/" in key else ""
        if key.startswith("head/"):
            shape = [*shape[:-1], num_classes]
        shapes[key] = (1, 1, 1, *shape) if parent.startswith("gn") else tuple(shape)
    return shapes


def bit_shapes(name, num_classes):
    """The same of a BiT, whose names and shapes are those of big_transfer's TensorFlow code."""
    from keras_vit.checkpoints.format import entries
    from keras_vit.checkpoints.formats.bit import BIT
    from keras_vit.models.fields import replace_fields
    from keras_vit.models.presets import get_preset
    from keras_vit.zoo.saving import describe

    config = get_preset(name)
    architecture = describe(replace_fields(config, {"num_classes": num_classes}))
    return {entry.theirs: entry.file_shape for entry in entries(BIT, architecture)}


def write_file(path, shapes):
    """An `.npz` file of random values, one array in memory at a time."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, shape in shapes.items():
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            array = rng.random(shape, np.float32) - np.float32(0.5)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def folder_of(name):
    """(entries of the table, config.json) of a folder of a library."""
    from keras_vit.checkpoints.format import About, entries
    from keras_vit.checkpoints.formats.registry import get_format
    from keras_vit.models import VisionTransformer
    from keras_vit.zoo.saving import describe

    format_name, layout, fields = FOLDERS[name]
    format_ = get_format(format_name)
    architecture = describe(VisionTransformer.config_class(**fields))
    if layout is None and format_.layout_for is not None:
        layout = format_.layout_for("model.safetensors", architecture)
    layout = layout or next(iter(format_.layouts))
    files = format_.side_files(architecture, format_.layouts[layout], About())
    return entries(format_, architecture, layout), files["config.json"]


def write_folder(path, shapes, config):
    """A safetensors file of random values, one array in memory at a time, and its config.json."""
    (path.parent / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            (rng.random(shape, np.float32) - np.float32(0.5)).tofile(file)


# Runs in a process of its own: imports and a small model first, then one thing that is measured.
PREPARE = """
import json, pathlib, struct, sys, time
import numpy as np
import keras_vit
small = keras_vit.create_model("ViT-Ti/16", depth=1, image_size=32)
small(np.zeros((1, 32, 32, 3), "float32"))
def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
def measured(function, *arguments):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    base, start = status("VmRSS"), time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    return result, seconds, status("VmHWM") - base
def arrays_of(path):
    if path.endswith(".npz"):
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        arrays = {}
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            arrays[key] = np.fromfile(file, "<f4", (end - start) // 4).reshape(entry["shape"])
        return arrays
path, again = sys.argv[1:3]
"""
LOAD = """
model, seconds, peak = measured(keras_vit.from_pretrained, path)
print(json.dumps([seconds, peak]))
"""
NUMPY = """
arrays, seconds, peak = measured(arrays_of, path)
print(json.dumps([seconds, peak]))
"""
SAVE = """
model = keras_vit.from_pretrained(path)
compared = 0
variables = {v.path: v for v in model.weights}
arrays = arrays_of(path)
for name, key in json.loads(sys.argv[3]).items():
    if name in variables and key in arrays:
        assert np.asarray(variables[name].value).tobytes() == arrays[key].tobytes(), name
        compared += 1
assert compared >= 3
del arrays
_, seconds, peak = measured(keras_vit.save_pretrained, model, again)
print(json.dumps([seconds, peak, compared, model.count_params()]))
"""


def in_new_process(code, *arguments):
    """What a program prints as JSON."""
    command = [sys.executable, "-c", PREPARE + code, *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def compare_files(path, again):
    """How many arrays two files have, which must be the same bit for bit."""
    with np.load(path) as one, np.load(again) as other:
        if set(one.files) != set(other.files):
            raise RuntimeError(f"{again} has other arrays: {set(one.files) ^ set(other.files)}")
        for key in one.files:
            first, second = one[key], other[key]
            same = (first.dtype, first.shape) == (second.dtype, second.shape)
            if not same or first.tobytes() != second.tobytes():
                raise RuntimeError(f"{again}: {key} is not what was loaded")
        return len(one.files)


def compare_bytes(path, again):
    """The same of two safetensors files, whose arrays may lie in another order."""
    places = []
    for file_path in (path, again):
        with open(file_path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        places.append((header, 8 + length))
    (one, start), (other, other_start) = places
    if set(one) != set(other):
        raise RuntimeError(f"{again} has other arrays: {set(one) ^ set(other)}")
    first, second = np.memmap(path, "u1", "r"), np.memmap(again, "u1", "r")
    for key, entry in one.items():
        (a, b), (c, d) = entry["data_offsets"], other[key]["data_offsets"]
        described = [entry[what] == other[key][what] for what in ("dtype", "shape")]
        same = np.array_equal(
            first[start + a : start + b], second[other_start + c : other_start + d]
        )
        if not all(described) or not same:
            raise RuntimeError(f"{again}: {key} is not what was loaded")
    return len(one)


def measure(name, folder):
    """A row of the table of one model."""
    compare, compared_keys = compare_files, COMPARED
    if name in FOLDERS:
        path, again = folder / "model.safetensors", folder / "again" / "model.safetensors"
        again.parent.mkdir()
        rows, config = folder_of(name)
        write_folder(path, {row.theirs: row.file_shape for row in rows}, config)
        same = [row for row in rows if row.is_theirs]
        chosen = same[:: max(len(same) // NUM_COMPARED, 1)]
        compare, compared_keys = compare_bytes, {row.ours: row.theirs for row in chosen}
    else:
        path, again = folder / "official.npz", folder / "again.npz"
        write_file(path, official_shapes(name))
    size = path.stat().st_size
    ours, theirs = [], []
    for _ in range(FLAGS.rounds):
        theirs.append(in_new_process(NUMPY, path, again))
        ours.append(in_new_process(LOAD, path, again))
    seconds, peak, compared, count = in_new_process(SAVE, path, again, json.dumps(compared_keys))
    num_arrays = compare(path, again)
    path.unlink()
    again.unlink()
    time, memory = (statistics.median(column) for column in zip(*ours, strict=True))
    their_time, their_memory = (statistics.median(column) for column in zip(*theirs, strict=True))
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    print(
        f"| {name} | {count / 1e6:.0f} M | {size / 2**20:,.0f} MiB | {time:.1f} s | "
        f"{their_time:.1f} s | {ratio:.2f} | {memory / size:.2f} | {their_memory / size:.2f} | "
        f"{seconds:.1f} s | {peak / size:.2f} | {compared} and {num_arrays} |",
        flush=True,
    )


def main(argv):
    known = {**MODELS, **FOLDERS}
    names = list(known) if FLAGS.model == "all" else [FLAGS.model]
    if len(argv) > 1 or not set(names) <= set(known):
        raise app.UsageError(f"--model takes all, {', '.join(known)}")
    print(
        "| model | parameters | file | from_pretrained | numpy.load | ratio | peak in files | "
        "numpy's | save_pretrained | peak in files | arrays compared |"
    )
    print(f"|{'---|' * 11}")
    for name in names:
        with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
            measure(name, pathlib.Path(folder))


if __name__ == "__main__":
    app.run(main)
