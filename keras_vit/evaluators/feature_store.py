"""Features on disk: a folder for what decides them, which a stopped computation goes on with."""

import contextlib
import hashlib
import json
import pathlib
import re

import keras
import numpy as np
from absl import logging

from keras_vit import files

_PROGRESS = "progress.json"


def weights_digest(model):
    """The SHA-256 of a model's weights, their paths and shapes, hexadecimal."""
    digest = hashlib.sha256()
    for variable in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{variable.path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def open_folder(cache_dir, dataset, split, described, shape, dtype):
    """Opens the folder of some features; another process that wants it waits until it is closed.

    Args:
        cache_dir: the folder of all features.
        dataset, split: names, for the folder's own.
        described: everything that decides the features, plain values; its digest is in the
            folder's name.
        shape: (N, F).
        dtype: NumPy's name of the precision.

    Yields:
        A `FeatureFolder`.
    """
    described = json.loads(json.dumps(described))  # as it is read again
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", f"{dataset}-{split}").strip("._")[-64:]
    folder = pathlib.Path(cache_dir).expanduser() / f"{name}-{digest[:16]}"
    folder.mkdir(parents=True, exist_ok=True)

    def say():
        logging.info("waiting for another process that computes %s", folder)

    with files.lock(folder / "lock", on_wait=say):
        yield FeatureFolder(folder, shape, dtype, described)


class FeatureFolder:
    """A folder with `features.npy`, `labels.npy` and how many rows of them are there."""

    def __init__(self, folder, shape, dtype, described):
        self.num_done = 0
        self._described = described
        self._progress = folder / _PROGRESS
        paths = [folder / name for name in ("features.npy", "labels.npy")]
        known = _read_json(self._progress)
        if known.get("described") == described and all(path.is_file() for path in paths):
            self._arrays = [np.load(path, mmap_mode="r+", allow_pickle=False) for path in paths]
            self.num_done = known["num_done"]
            return
        self._progress.unlink(missing_ok=True)
        self._arrays = [
            np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=size)
            for path, kind, size in zip(paths, (dtype, "int64"), (shape, shape[:1]), strict=True)
        ]

    def extend(self, parts):
        """Writes what `FeatureReader._compute` yields."""
        end = self.num_done
        for (start, values, labels), is_time in parts:
            end = start + len(values)
            self._arrays[0][start:end] = values
            self._arrays[1][start:end] = labels
            if is_time:
                self._save(end)
        self._save(end)

    def read(self):
        """(features, labels), the features mapped from the file."""
        return self._arrays[0], np.array(self._arrays[1])

    def _save(self, num_done):
        for array in self._arrays:
            array.flush()
        known = {"num_done": num_done, "described": self._described}
        files.write_whole(self._progress, json.dumps(known, indent=1))
        self.num_done = num_done


def _read_json(path):
    """A JSON file's dict; an empty one where there is no such file, or it is another thing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
