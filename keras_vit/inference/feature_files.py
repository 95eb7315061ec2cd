"""Parts of features -> one file: .npz, .h5 or .parquet.

A part is a .npz file with `features` (n, ...) and `paths` (n,).
"""

import importlib
import os

import h5py
import numpy as np

from keras_vit.files import replacing

ENDINGS = (".npz", ".h5", ".parquet")


def check_ending(path):
    """Raises an error where a file of that name cannot be written here.

    Args:
        path: `pathlib.Path` of the file.

    Raises:
        ValueError: For another ending.
        ImportError: For .parquet without pyarrow.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"`output` must end with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}. Received: {path}"
        )
    if path.suffix == ".parquet":
        _pyarrow()


def join(parts, output):
    """Writes the arrays of all parts into one file, which appears whole.

    Args:
        parts: Paths of the parts, at least one.
        output: `pathlib.Path` with one of `ENDINGS`.

    Returns:
        The number of images.
    """
    with replacing(output) as file:
        return _WRITERS[output.suffix](parts, file)


def _arrays(parts):
    loaded = [_load(part) for part in parts]
    return (np.concatenate([part[name] for part in loaded]) for name in ("features", "paths"))


def _load(part):
    with np.load(part, allow_pickle=False) as file:
        return {name: file[name] for name in ("features", "paths")}


def _write_npz(parts, file):
    features, paths = _arrays(parts)
    np.savez(file, features=features, paths=paths)
    return len(paths)


def _write_h5(parts, file):
    features, paths = _arrays(parts)
    with h5py.File(file, "w") as archive:
        archive["features"] = features
        # A path need not be text.
        data = [os.fsencode(path) for path in paths.tolist()]
        archive.create_dataset("paths", data=data, dtype=h5py.string_dtype())
    return len(paths)


def _write_parquet(parts, file):
    """Columns `path` and `features`, a list of fixed sizes; a row group for each part."""
    pyarrow, parquet = _pyarrow()
    names = [_load(part)["paths"].tolist() for part in parts]
    # A path need not be text; then all are bytes.
    is_text = all(_is_unicode(name) for part in names for name in part)
    kind = pyarrow.string() if is_text else pyarrow.binary()
    first = _load(parts[0])["features"]
    schema = pyarrow.schema({"path": kind, "features": _list_type(pyarrow, first)})
    with parquet.ParquetWriter(file, schema) as writer:
        for part, paths in zip(parts, names, strict=True):
            features = _load(part)["features"]
            column = pyarrow.array(features.reshape(-1))
            for size in reversed(features.shape[1:]):
                column = pyarrow.FixedSizeListArray.from_arrays(column, size)
            paths = paths if is_text else [os.fsencode(path) for path in paths]
            arrays = [pyarrow.array(paths, kind), column]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return sum(map(len, names))


def _list_type(pyarrow, features):
    """(n, D) or (n, h, w, D) -> lists of D, or of h lists of w lists of D."""
    kind = pyarrow.from_numpy_dtype(features.dtype)
    for size in reversed(features.shape[1:]):
        kind = pyarrow.list_(kind, size)
    return kind


def _is_unicode(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pyarrow():
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            ".parquet files need pyarrow; `pip install 'keras-vision-transformer[parquet]'` "
            f"({error})"
        ) from error


_WRITERS = {".npz": _write_npz, ".h5": _write_h5, ".parquet": _write_parquet}
