"""Features of image files in one file: embeddings, or the grid of the last block.

Shapes: n images, B batch, D hidden, h w grid.
"""

import os
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.images.image_problems import MAX_FILE_BYTES, MAX_FILE_PIXELS
from keras_vit.data.images.try_prepare import try_prepare_image
from keras_vit.files import read_regular, replacing
from keras_vit.inference import feature_files, find
from keras_vit.inference.identity import model_digest
from keras_vit.inference.output_folder import claim

LAYOUTS = ("embedding", "grid")
DTYPES = ("float32", "float16")
_PART = 256  # images that are written together, so that no more are computed again
_EMBEDDING = "pre_logits"


def extractor(model, layout="embedding"):
    """The model that returns features.

    Args:
        model: A model of this package.
        layout: `"embedding"` for what the head sees, (B, D); `"grid"` for the patches of the last
            block after the final norm, (B, h, w, D).

    Returns:
        A `keras.Model` of one output.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    if layout == "grid":
        (output,) = model.feature_extractor(blocks=(-1,), layout="grid").output.values()
        return keras.Model(model.input, output)
    return keras.Model(model.input, model.get_layer(_EMBEDDING).output)


def write_features(
    model,
    paths,
    output,
    *,
    layout="embedding",
    dtype="float32",
    batch_size=32,
    max_pixels=None,
    overwrite=False,
):
    """Writes the features of image files: arrays `features` (n, ...) and `paths` (n,).

    A .parquet file has a row for each image, with `path` and `features`: a list of D numbers, or a
    list of h lists of w lists of D, all of fixed sizes.

    What is computed is kept in the folder `OUTPUT.parts` until all is there, so that an interrupted
    call goes on where it stopped.  A file that cannot be read is left out.

    Args:
        model: A model of this package.
        paths: Of image files and folders.
        output: Path of the file, with the ending .npz, .h5 or .parquet.
        layout: `"embedding"` or `"grid"`, see `extractor`.
        dtype: `"float32"` or `"float16"`, of what is written.
        batch_size: Images in one call of the model.
        max_pixels: The largest height x width that is decoded; None takes 2^28.
        overwrite: Whether the output may be replaced, and parts of other work dropped.

    Returns:
        `(number of images, errors)`: errors is a list of (path, why it could not be read).

    Raises:
        ValueError: For another ending, layout or dtype, parts of other work, or no image.
        ImportError: For .parquet without pyarrow.
        BlockingIOError: If another process writes the same file.
        FileExistsError: If the output exists and `overwrite` is False.
        OSError: If it cannot be written.
    """
    output = pathlib.Path(output)
    feature_files.check_ending(output)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received: {dtype!r}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; pass `overwrite=True` to replace it")
    network = extractor(model, layout)
    files, failures = find.find_images(paths)
    if not files:
        raise ValueError(f"there must be images to look at. Received: {failures or 'none'}")
    names = [os.fspath(file) for file in files]
    work = {
        "model": model_digest(model, model.preprocessing, ()),
        "layout": layout,
        "dtype": dtype,
        "files": [[name, *_version(name)] for name in names],
    }
    parts = output.with_name(f"{output.name}.parts")
    limit = max_pixels or MAX_FILE_PIXELS
    errors = [(os.fspath(path), error) for path, error in failures]
    chunks = _chunks(names, _PART)
    paths = [parts / f"{number:06d}.npz" for number in range(len(chunks))]
    with claim(parts, {**work, "max_pixels": limit}, "*.npz", overwrite):
        for path, chunk in zip(paths, chunks, strict=True):
            if not path.is_file():
                found = _compute(network, model.preprocessing, chunk, batch_size, dtype, limit)
                with replacing(path) as file:
                    np.savez(file, **found)
        written = []
        for path in paths:
            with np.load(path, allow_pickle=False) as part:
                errors += [tuple(pair) for pair in part["errors"].tolist()]
                if len(part["paths"]):
                    written.append(path)
        if not written:
            raise ValueError(f"no image can be read. Received: {errors[0][0]}: {errors[0][1]}")
        count = feature_files.join(written, output)
        shutil.rmtree(parts)
    return count, errors


def _chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def _version(path):
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _compute(network, preprocessing, names, batch_size, dtype, max_pixels):
    """`features`, `paths` and `errors` of some files, as arrays."""
    features, paths, errors = [], [], []
    for batch in _chunks(names, batch_size):
        good = []
        for name in batch:
            try:
                encoded = tf.constant(read_regular(name, MAX_FILE_BYTES))
            except OSError as error:
                errors.append((name, find.explain(error)))
                continue
            tensor, problem = try_prepare_image(encoded, preprocessing, max_pixels, MAX_FILE_BYTES)
            if problem.numpy():
                errors.append((name, problem.numpy().decode()))
            else:
                good.append(tensor.numpy())
                paths.append(name)
        if good:
            padded = good + [good[0]] * (batch_size - len(good))  # so that it is compiled once
            values = keras.ops.convert_to_numpy(network.predict_on_batch(np.stack(padded)))
            features.append(values[: len(good)].astype(dtype))
    shape = (0, *network.output_shape[1:])
    return {
        "features": np.concatenate(features) if features else np.zeros(shape, dtype),
        "paths": np.array(paths, str),
        "errors": np.array(errors, str).reshape(-1, 2),
    }
