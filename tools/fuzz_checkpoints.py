"""Loads thousands of damaged checkpoints: each is right, or a CheckpointError that changes nothing.

    python tools/fuzz_checkpoints.py                              10,000 and 2,000 of each container
    python tools/fuzz_checkpoints.py --containers=h5 --seed=7
    python tools/fuzz_checkpoints.py --containers=npz --kinds=structured --only=1234      one again

Every mutant of a tiny ViT, hybrid or BiT file, and of the folders (arrays and config.json) that
transformers and timm write of FOLDERS, is loaded into a model with `load_weights`, once as
it is and once with the digest of the good file, and every so often with `from_pretrained`.  Prints
a table of outcomes, and every mutant for which one of these does not hold:

- it loads to the good file's bits, or raises CheckpointError and every variable is as before;
- other values load only where no checksum could tell: from `.safetensors` and `.h5` files, and from
  `.keras` archives whose checksum a structured mutant has made anew; never where a digest is given;
- less than 200 MB of memory and a second of processor time.

Mutants are drawn from (seed, container, kind, index) alone.  They run in forked children with
limits, a thousand in each; the index is noted before a mutant is touched, so that a crash has a
name.
"""

import collections
import dataclasses
import hashlib
import json
import mmap
import os
import pathlib
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback

import checkpoint_mutants
import numpy as np
from absl import app, flags

import keras_vit

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_bytes", 10_000, "Byte-level mutants of each container.", lower_bound=0)
flags.DEFINE_integer("num_structured", 2_000, "Structured mutants of each.", lower_bound=0)
flags.DEFINE_list("containers", list(checkpoint_mutants.STRUCTURED), "Which containers.")
flags.DEFINE_list("kinds", ["bytes", "structured"], "Which kinds of mutants.")
flags.DEFINE_list("models", ["vit", "hybrid", "bit"], "Of which files; folders have their own.")
flags.DEFINE_list("folders", None, "Of which of FOLDERS; all by default.")
flags.DEFINE_integer("seed", 0, "Of all mutants.")
flags.DEFINE_integer("only", None, "Index of the only mutant to load, with its error shown.")

ENDINGS = {
    "npz": ".npz",
    "safetensors": ".safetensors",
    "keras": ".keras",
    "h5": ".weights.h5",
    "folder": ".folder",
}
# Where other values may load, because nothing in the file could tell.
UNTOLD = {
    ("safetensors", "bytes"),
    ("safetensors", "structured"),
    ("h5", "bytes"),
    ("h5", "structured"),
    ("keras", "structured"),
    ("folder", "bytes"),
    ("folder", "structured"),
}
# What transformers and timm write, a folder each: name -> (fields of a tiny model, format).
_NUMBERS = {"gelu": "exact", "layer_norm_epsilon": 1e-6}
_DINOV2 = {**_NUMBERS, "layer_scale": 1.0, "mask_token": True, "mlp_dim": 16}
FOLDERS = {
    "vit_folder": ({**_NUMBERS, "layer_norm_epsilon": 1e-12}, "huggingface"),
    "deit_distilled": (
        {**_NUMBERS, "distillation_token": True, "pooling": "distillation"},
        "huggingface",
    ),
    "dinov2": ({**_DINOV2, "pooling": "token_patch_mean"}, "huggingface_dinov2"),
    "dinov2_registers": ({**_DINOV2, "num_registers": 2, "num_classes": 0}, "huggingface_dinov2"),
    "siglip": (
        {"class_token": False, "pooling": "attention", "num_classes": 0},
        "huggingface_siglip",
    ),
    "clip": (
        {
            "gelu": "quick",
            "layer_norm_epsilon": 1e-5,
            "pre_norm": True,
            "patch_bias": False,
            "use_head_bias": False,
        },
        "huggingface_clip",
    ),
    "timm_registers": (
        {**_NUMBERS, "num_registers": 2, "register_positions": True, "layer_scale": 1e-5},
        "timm",
    ),
    "timm_swiglu": ({**_NUMBERS, "gated_mlp": True, "layer_scale": 1e-5}, "timm"),
}
BATCH = 1000
MAX_SECONDS = 1.0
MAX_BYTES = 200 << 20
ALARM_SECONDS = 20
ADDRESS_SPACE = 1 << 30
BUILT_EVERY = 20


def tiny(name):
    """A small model of each family."""
    sizes = {"image_size": 16, "num_classes": 5}
    encoder = {"hidden_size": 8, "mlp_dim": 12, "num_heads": 2, "depth": 2}
    resnet = {"stage_depths": (1,), "width_factor": 0.5}
    if name == "vit":
        return keras_vit.create_model(
            "ViT-B/16", patch_size=8, representation_size=6, **sizes, **encoder
        )
    if name in FOLDERS:
        fields = {**sizes, **encoder, **FOLDERS[name][0]}
        return keras_vit.create_model("ViT-B/16", patch_size=8, **fields)
    if name == "hybrid":
        return keras_vit.create_model("R50+ViT-B/16", patch_size=2, **sizes, **encoder, **resnet)
    return keras_vit.create_model("BiT-R50x1", **sizes, **resnet)


def arrays_of(model):
    """Variable path -> array."""
    return {v.path: np.array(np.asarray(v.value)) for v in model.weights}


def digest(model):
    """Of all variables."""
    state = hashlib.sha256()
    for variable in model.weights:
        state.update(np.asarray(variable.value).tobytes())
    return state.hexdigest()


def write_good_files(folder):
    """One good file for each container and model."""
    rng = np.random.default_rng(0)
    for name in (*FLAGS.models, *(FLAGS.folders or FOLDERS)):
        model = tiny(name)
        for variable in model.weights:
            variable.assign(rng.normal(size=variable.shape))
        np.savez(folder / f"{name}.expected", **arrays_of(model))
        for container, ending in ENDINGS.items():
            path = folder / f"{name}{ending}"
            if (name in FOLDERS) != (container == "folder"):
                continue
            if container == "folder":
                written = keras_vit.save_pretrained(model, folder / name, format=FOLDERS[name][1])
                kept = (checkpoint_mutants.ARRAYS, checkpoint_mutants.CONFIG)
                files = {file: (written.parent / file).read_bytes() for file in kept}
                path.write_bytes(checkpoint_mutants.packed(files))
            elif container == "keras":
                model.save(path)
            elif container == "h5":
                model.save_weights(path)
            else:
                keras_vit.save_pretrained(model, path)


@dataclasses.dataclass
class Target:
    """A model to load into, with what a good file would make of it."""

    model: object
    good: bytes
    expected: dict
    blank: dict
    before: str = ""

    @classmethod
    def of(cls, name, container, folder):
        model = tiny(name)
        with np.load(folder / f"{name}.expected.npz") as file:
            expected = {key: file[key] for key in file.files}
        good = (folder / f"{name}{ENDINGS[container]}").read_bytes()
        target = cls(model, good, expected, {k: np.full_like(a, 7) for k, a in expected.items()})
        target.reset()
        return target

    def reset(self):
        for variable in self.model.weights:
            variable.assign(self.blank[variable.path])
        self.before = digest(self.model)

    def has_expected(self, model):
        return all(
            np.asarray(v.value).tobytes() == self.expected[v.path].tobytes() for v in model.weights
        )


def peak_bytes(reset=False):
    """This process's peak of resident memory since it was reset."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell the peak of resident memory")


def attempt(target, path, sha256=None):
    """(outcome, exception) of one call of `load_weights`."""
    try:
        keras_vit.load_weights(target.model, path, sha256=sha256)
    except keras_vit.CheckpointError as error:
        if digest(target.model) != target.before:
            return "CHANGED by a failing load", error
        return "error", error
    except Exception as error:
        return f"RAISED {type(error).__name__}", error
    if target.has_expected(target.model):
        target.reset()
        return "equal", None
    target.reset()
    return "other values", None


def load_mutant(target, path, container, kind, index):
    """Loads one mutant in all ways: (outcome, seconds, bytes, problems)."""
    data = checkpoint_mutants.mutant(FLAGS.seed, container, kind, index, target.good)
    put(path, container, data)
    base = peak_bytes(reset=True)
    start = time.process_time()
    outcome, error = attempt(target, path)
    seconds, grown = time.process_time() - start, peak_bytes() - base
    problems = [outcome] if outcome[0].isupper() else []
    if outcome == "other values" and (container, kind) not in UNTOLD:
        problems.append("WRONG values")
    if FLAGS.only is not None and error is not None:
        traceback.print_exception(error)
    sha256 = hashlib.sha256(target.good).hexdigest()
    checked, _ = attempt(target, path, sha256)
    # Of a folder, a digest is that of the arrays alone, which this is not.
    if checked != ("equal" if data == target.good and container != "folder" else "error"):
        problems.append(f"{checked.upper()} in spite of the digest")
    if container != "h5" and index % BUILT_EVERY == 0:
        try:
            built = keras_vit.from_pretrained(path)
            if outcome == "equal" and not target.has_expected(built):
                problems.append("WRONG values in from_pretrained")
        except keras_vit.CheckpointError:
            pass
        except Exception as built_error:
            problems.append(f"RAISED {type(built_error).__name__} in from_pretrained")
    if seconds > MAX_SECONDS:
        problems.append(f"TOOK {seconds:.1f} s")
    if grown > MAX_BYTES:
        problems.append(f"TOOK {grown >> 20} MB")
    return outcome, seconds, grown, problems


def put(path, container, data):
    """Writes a mutant: a file, or the files of a folder."""
    if container != "folder":
        path.write_bytes(data)
        return
    path.mkdir(exist_ok=True)
    for name, content in checkpoint_mutants.unpacked(data).items():
        (path / name).write_bytes(content)


def run_batch(container, kind, indices, folder, progress):
    """What a child does: (outcomes, most seconds, most bytes, [(index, problem)])."""
    names = (FLAGS.folders or list(FOLDERS)) if container == "folder" else FLAGS.models
    targets = [Target.of(name, container, folder) for name in names]
    path = folder / f"mutant-{os.getpid()}{ENDINGS[container]}"
    # Once with the good file, so that what is made once does not count as a mutant's.
    for target in targets:
        put(path, container, target.good)
        keras_vit.load_weights(target.model, path)
        target.reset()
    space = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + ADDRESS_SPACE, space + ADDRESS_SPACE))
    outcomes, worst_seconds, worst_bytes, problems = collections.Counter(), 0.0, 0, []
    for index in indices:
        struct.pack_into("<q", progress, 0, index)
        signal.alarm(ALARM_SECONDS)
        target = targets[index % len(targets)]
        outcome, seconds, grown, found = load_mutant(target, path, container, kind, index)
        outcomes[outcome] += 1
        worst_seconds, worst_bytes = max(worst_seconds, seconds), max(worst_bytes, grown)
        problems += [(index, problem) for problem in found]
    signal.alarm(0)
    shutil.rmtree(path) if container == "folder" else path.unlink()
    return outcomes, worst_seconds, worst_bytes, problems


def in_child(function, *arguments):
    """A function's result from a forked process; None and the wait status if it died.

    The parent imports TensorFlow and runs none of its operations: a fork would inherit their locks.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(function(*arguments), pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return (json.loads(text) if status == 0 else None), status


def fuzz(container, kind, count, folder):
    """All mutants of one kind; prints what is wrong, and returns the table's row and how many."""
    outcomes, seconds, grown, failures = collections.Counter(), 0.0, 0, 0
    indices = [FLAGS.only] if FLAGS.only is not None else list(range(count))
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    progress = mmap.mmap(-1, 8)
    while batches:
        batch = batches.pop(0)
        result, status = in_child(run_batch, container, kind, batch, folder, progress)
        if result is None:
            (index,) = struct.unpack("<q", progress[:8])
            print(f"{container} {kind} {index} (seed {FLAGS.seed}): DIED, wait status {status}")
            failures += 1
            # The others of the batch once more, without the one that killed it.
            place = batch.index(index)
            batches[:0] = [part for part in (batch[:place], batch[place + 1 :]) if part]
            continue
        outcomes.update(result[0])
        seconds, grown = max(seconds, result[1]), max(grown, result[2])
        for index, problem in result[3]:
            print(f"{container} {kind} {index} (seed {FLAGS.seed}): {problem}")
        failures += len({index for index, _ in result[3]})
    counts = [f"{outcomes[name]:,}" for name in ("error", "equal", "other values")]
    row = [f".{container}", kind, *counts, str(failures), f"{seconds:.2f} s"]
    return [*row, f"{grown / 2**20:.0f} MB"], failures


def main(argv):
    if len(argv) > 1 or not set(FLAGS.containers) <= set(checkpoint_mutants.STRUCTURED):
        raise app.UsageError(f"--containers takes {', '.join(checkpoint_mutants.STRUCTURED)}")
    counts, failures = {"bytes": FLAGS.num_bytes, "structured": FLAGS.num_structured}, 0
    print("| file | mutants | CheckpointError | equal | other values | wrong | time | memory |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        _, status = in_child(write_good_files, folder)
        if status:
            raise RuntimeError("the good files could not be written")
        for container in FLAGS.containers:
            for kind in FLAGS.kinds:
                row, found = fuzz(container, kind, counts[kind], folder)
                print(f"| {' | '.join(row)} |", flush=True)
                failures += found
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(app.run(main))
