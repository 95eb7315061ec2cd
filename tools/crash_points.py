"""Kills a process at each system call with which a file is written, and looks what is left.

    python tools/crash_points.py            all writers
    python tools/crash_points.py state run  these

Needs strace (a package of that name).  A child has written something old; strace is attached to it
and kills it at the k-th call of one kind while it writes something new; k goes up until nothing is
killed.  What a reader finds afterwards must be the old or the new, whole.
"""

import collections
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
    "calls",
    ["write", "pwrite64", "ftruncate", "fsync", "rename", "unlink", "rmdir", "mkdir", "openat"],
    ["write", "pwrite64", "ftruncate", "fsync", "rename", "unlink", "rmdir", "mkdir", "openat"],
    "Kinds of system calls to be killed at.",
)


def arrays(number):
    import numpy as np

    rng = np.random.default_rng(number)
    return {f"model/{i}": rng.normal(size=(30, 40)).astype("float32") for i in range(6)}


class StateWriter:
    """The states of a training: `keras_vit.training.resume.state_file`."""

    def write(self, folder, number):
        from keras_vit.training.resume.state_file import State, StateFolder

        facts = {"epoch": number, "history": []}
        StateFolder(folder).write(State(step=number, facts=facts, arrays=arrays(number)))

    def read(self, folder):
        from keras_vit.training.resume.state_file import StateFolder

        state = StateFolder(folder).newest()
        expected = arrays(state.step)
        assert state.facts["epoch"] == state.step
        assert all((state.arrays[key] == expected[key]).all() for key in expected)
        return state.step


class NpzWriter:
    """A checkpoint as `save_pretrained` writes it."""

    name, ending = "write_npz", ".npz"

    def write(self, folder, number):
        from keras_vit.checkpoints.containers import files

        path = pathlib.Path(folder, f"model{self.ending}")
        getattr(files, self.name)(path, {k.replace("/", "_"): a for k, a in arrays(number).items()})

    def read(self, folder):
        import numpy as np

        with np.load(pathlib.Path(folder, "model.npz")) as file:
            return self.compare({key: file[key] for key in file.files})

    def compare(self, found):
        for number in (1, 2):
            expected = arrays(number)
            if all((found[key.replace("/", "_")] == expected[key]).all() for key in expected):
                return number
        raise AssertionError("neither the old nor the new")


class SafetensorsWriter(NpzWriter):
    """The same as safetensors."""

    name, ending = "write_safetensors", ".safetensors"

    def read(self, folder):
        import safetensors.numpy

        return self.compare(safetensors.numpy.load_file(pathlib.Path(folder, "model.safetensors")))


class RunWriter:
    """The files of a finished run, over those of an older one: `keras_vit.training.run_folder`."""

    def write(self, folder, number):
        from keras_vit.training import run_folder as folders

        with folders.new_run(folder, overwrite=True) as temporary:
            state = pathlib.Path(folder, folders.STATE)
            state.mkdir(exist_ok=True)
            (state / "step").write_text(str(number))
            for name in folders.FILES:
                (temporary / name).write_text(f"{number}" * 100)

    def read(self, folder):
        """A folder with a model has the files of one run; without it, the run can go on."""
        from keras_vit.training import run_folder as folders

        found = {name: pathlib.Path(folder, name) for name in folders.FILES}
        texts = {name: path.read_text() for name, path in found.items() if path.exists()}
        assert set(texts.values()) <= {"1" * 100, "2" * 100}
        if folders.MODEL not in texts:
            assert pathlib.Path(folder, folders.STATE, "step").read_text() == "2"
            return 1
        assert len(texts) == len(folders.FILES)
        (text,) = set(texts.values())
        return int(text[0])


class MetricsWriter:
    """The metrics of `keras-vit evaluate --output`."""

    def write(self, folder, number):
        from keras_vit.cli import output

        output.write_json(pathlib.Path(folder, "metrics.json"), {"number": number})

    def read(self, folder):
        import json

        return json.loads(pathlib.Path(folder, "metrics.json").read_text())["number"]


class ExportWriter:
    """A version of an export, as a server that watches the folder sees it: `serving.versions`.

    What TensorFlow writes into the temporary folder stands here as files of the same names.
    """

    FILES = ("saved_model.pb", "variables/variables.index", "variables/data", "assets/model.json")

    def write(self, folder, number):
        from keras_vit.serving import versions

        with versions.new_version(folder) as (temporary, publish):
            for name in self.FILES:
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(f"{number}" * 1000)
            publish()

    def read(self, folder):
        from keras_vit.serving import versions

        for version in pathlib.Path(folder).iterdir():
            if version.name.isdigit():
                texts = {(version / name).read_text() for name in self.FILES}
                assert texts in ({"1" * 1000}, {"2" * 1000}), f"version {version.name} is not whole"
        return int((versions.latest_version(folder) / self.FILES[0]).read_text()[0])


class InPlaceWriter:
    """The negative control: a file that is overwritten where it is."""

    def write(self, folder, number):
        with open(pathlib.Path(folder, "file"), "wb", buffering=0) as file:
            content = random.Random(number).randbytes(30_000)
            for begin in range(0, len(content), 10_000):
                file.write(content[begin : begin + 10_000])

    def read(self, folder):
        content = pathlib.Path(folder, "file").read_bytes()
        for number in (1, 2):
            if content == random.Random(number).randbytes(30_000):
                return number
        raise AssertionError("neither the old nor the new")


WRITERS = {
    "state": StateWriter,
    "npz": NpzWriter,
    "safetensors": SafetensorsWriter,
    "run": RunWriter,
    "metrics": MetricsWriter,
    "export": ExportWriter,
    "in_place": InPlaceWriter,
}


def killed_at(writer, folder, call, place):
    """Whether a child that writes the new was killed at that call."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            writer.write(folder, 2)
            code = 0
        finally:
            os._exit(code)
    os.read(ready[0], 1)
    tracer = subprocess.Popen(
        [
            *("strace", "-qq", "-p", str(child), "-e", f"trace={call}", "-o", os.devnull),
            *("-e", f"inject={call}:signal=SIGKILL:when={place}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    while f"TracerPid:\t{tracer.pid}" not in pathlib.Path(f"/proc/{child}/status").read_text():
        assert tracer.poll() is None, "strace cannot be attached"
        time.sleep(0.002)
    os.write(go[1], b"1")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.wait()
    for descriptor in (*ready, *go):
        os.close(descriptor)
    assert code in (0, -signal.SIGKILL), f"the writer ended with {code}"
    return code != 0


def crash_points(name, root):
    """Counts what was found after a kill at each place: old, new, or neither."""
    writer, found, calls = WRITERS[name](), collections.Counter(), {}
    for call in FLAGS.calls:
        place = 0
        was_killed = True
        while was_killed:
            place += 1
            folder = root / hashlib.sha256(f"{name}{call}{place}".encode()).hexdigest()[:12]
            folder.mkdir()
            writer.write(folder, 1)
            was_killed = killed_at(writer, folder, call, place)
            try:
                number = writer.read(folder)
                outcome = {1: "old", 2: "new"}[number]
            except (AssertionError, OSError, ValueError, KeyError) as error:
                outcome = "neither"
                if name != "in_place":
                    print(f"{name}: killed at {call} {place}: {type(error).__name__} {error}")
            if was_killed:
                found[outcome] += 1
            else:
                assert outcome == "new", f"{name} without a kill: {outcome}"
            # What is left must not be in the way of the next one.
            writer.write(folder, 2)
            assert writer.read(folder) == 2
            shutil.rmtree(folder)
        calls[call] = place - 1
    return found, calls


def main(argv):
    names = argv[1:] or list(WRITERS)
    unknown = set(names) - set(WRITERS)
    if unknown:
        raise app.UsageError(f"Unknown writers {unknown}; they are {', '.join(WRITERS)}")
    # Imported once, before the children are forked.
    import keras_vit.training.states  # noqa: F401

    root = pathlib.Path(tempfile.mkdtemp(prefix="crash_points_"))
    bad = 0
    try:
        for name in names:
            found, calls = crash_points(name, root)
            places = ", ".join(f"{number} {call}" for call, number in calls.items() if number)
            print(
                f"{name:12s} {sum(found.values()):3d} crash points ({places}): {found['old']} old, "
                f"{found['new']} new, {found['neither']} neither",
                flush=True,
            )
            bad += (found["neither"] == 0) if name == "in_place" else found["neither"]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
