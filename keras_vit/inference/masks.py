"""Masks of image files, as PNGs, and the pictures with the masks over them."""

import contextlib
import dataclasses
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_vit.data.images.image_problems import MAX_FILE_BYTES, MAX_FILE_PIXELS
from keras_vit.data.images.mask_colors import colors, overlay
from keras_vit.data.images.try_prepare import try_size_image
from keras_vit.data.segmenter import Segmenter
from keras_vit.files import read_regular, write_whole
from keras_vit.inference import find
from keras_vit.inference.identity import model_digest, saved_model_digest
from keras_vit.inference.output_folder import claim
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.serving.segmentation import FORMAT, MODEL_JSON, SavedModelSegmenter
from keras_vit.serving.versions import latest_version

OVERLAY = "_overlay"
_MAX_DESCRIPTION_BYTES = 64 << 20
_DONE, _MAX_DONE_BYTES = ".keras_vit_masks.jsonl", 1 << 30
_DESCRIBED = {"num_classes", "class_names", "max_pixels", "preprocessing"}


@dataclasses.dataclass(frozen=True)
class ImageMask:
    """What became of one image.

    Args:
        path: Of the image.
        mask: Path of its mask, or None.
        shares: Class name -> share of the pixels, the largest first, of the classes that occur; {}
            where the mask was there before.
        error: Why there is none, or None.
    """

    path: str
    mask: str | None = None
    shares: dict = dataclasses.field(default_factory=dict)
    error: str | None = None


def saved_segmentation(directory):
    """The `SavedModelSegmenter` of an export, or None where it is no segmentation."""
    folder = latest_version(directory)
    path = folder / "assets" / MODEL_JSON
    if not path.is_file():
        return None
    try:
        description = json.loads(read_regular(path, _MAX_DESCRIPTION_BYTES))
    except (ValueError, RecursionError):
        return None  # whoever opens it says so
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        return None
    missing = sorted(_DESCRIBED - set(description))
    if missing:
        raise ValueError(f"{path} must tell {', '.join(missing)}; export the model again")
    return SavedModelSegmenter(folder, description)


def write_masks(
    model, paths, output, *, overlays=False, overwrite=False, batch_size=8, max_pixels=None
):
    """Writes the mask of each image file, a PNG of its size whose values are classes.

    The folder must be new, empty or of an earlier call: no other file in it is replaced.  What is
    written is listed there, so that an interrupted call goes on where it stopped.  A file that
    cannot be read costs no other file its mask.  A JPEG of more than 2^25 pixels is decoded at a
    half, a quarter or an eighth, and so is its mask.

    Args:
        model: `SegmentationModel` or `SavedModelSegmenter`.
        paths: Of image files and folders.
        output: Folder of the masks, which keep the images' names and their folders.
        overlays: Whether `NAME_overlay.png` is written too.
        overwrite: Whether masks that are there are written anew, also those of another model.
        batch_size: Windows in one call of the model.
        max_pixels: The largest height x width that is decoded; None takes 2^28, or the export's.

    Returns:
        An iterator of `ImageMask`.

    Raises:
        ValueError: For a folder with other files, or without `overwrite` of another model.
        BlockingIOError: If another process writes into the folder.
        OSError: If a mask cannot be written.
    """
    output = pathlib.Path(output)
    files, failures = find.find_images(paths)
    # Masks of an earlier call are no pictures.
    files = [file for file in files if output.absolute() not in file.absolute().parents]
    yield from (ImageMask(os.fspath(path), error=error) for path, error in failures)
    if isinstance(model, SavedModelSegmenter):
        segmenter, limit = model, model.max_pixels
        names, number = model.class_names, model.num_classes
        rule = Preprocessing(image_size=(1, 1), orientation=model.orientation)
        digest = saved_model_digest(model.folder)
    else:
        segmenter, rule = Segmenter(model, batch_size), model.preprocessing
        limit, names, number = MAX_FILE_PIXELS, model.class_names, model.head.num_classes
        stated = json.dumps(model.get_config(), sort_keys=True, default=str)
        digest = model_digest(model, rule, [stated])
    names = names or [str(k) for k in range(number)]
    with claim(output, {"model": digest}, _DONE, overwrite):
        if overwrite:
            (output / _DONE).unlink(missing_ok=True)
        yield from _write_masks(
            *(segmenter, files, output, rule, max_pixels or limit, names, overlays)
        )


def _write_masks(segmenter, files, output, rule, max_pixels, class_names, overlays):
    """`write_masks` in its folder."""
    number = len(class_names)
    table, done = colors(number), _read_done(output / _DONE)
    for file, name in zip(files, _names(files), strict=True):
        target = output / f"{name}.png"
        over = output / f"{name}{OVERLAY}.png"
        image_of = done.get(name)
        if image_of and image_of[0] != os.fspath(file.absolute()):
            error = f"{target} is the mask of {image_of[0]}; name another folder"
            yield ImageMask(os.fspath(file), error=error)
            continue
        is_there = target.is_file() and (not overlays or over.is_file())
        try:
            identity = _identity(file)
            if is_there and image_of == identity:
                yield ImageMask(os.fspath(file), mask=os.fspath(target))
                continue
            encoded = read_regular(file, MAX_FILE_BYTES)
        except OSError as error:
            yield ImageMask(os.fspath(file), error=find.explain(error))
            continue
        image, problem = try_size_image(tf.constant(encoded), rule, max_pixels, MAX_FILE_BYTES)
        if problem.numpy():
            yield ImageMask(os.fspath(file), error=problem.numpy().decode())
            continue
        image = image.numpy()
        (mask,) = segmenter.masks([image])
        mask = mask.astype(np.uint8)
        if overlays:
            write_whole(over, tf.io.encode_png(overlay(image, mask, table)).numpy())
        write_whole(target, tf.io.encode_png(mask[..., np.newaxis]).numpy())
        with (output / _DONE).open("a", encoding="utf-8") as record:
            record.write(json.dumps([name, *identity]) + "\n")
        counts = np.bincount(mask.ravel(), minlength=number) / mask.size
        best = [k for k in np.argsort(-counts, kind="stable") if counts[k] > 0]
        shares = {class_names[k]: float(counts[k]) for k in best}
        yield ImageMask(os.fspath(file), mask=os.fspath(target), shares=shares)


def _identity(file):
    """[absolute path, size, time] of an image, by which it is known again."""
    path = file.absolute()
    status = path.stat()
    return [os.fspath(path), status.st_size, status.st_mtime_ns]


def _read_done(path):
    """Name of a mask -> `_identity` of its image; a line that a killed process left is none."""
    done = {}
    if path.is_file():
        text = read_regular(path, _MAX_DONE_BYTES, follow_links=False).decode(errors="replace")
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                name, *image = json.loads(line)
                done[name] = image
    return done


def _names(files):
    """Names for files: paths below their common folder without endings, unless two would agree."""
    if not files:
        return []
    absolute = [pathlib.Path(file).absolute() for file in files]
    root = os.path.commonpath([file.parent for file in absolute])
    relative = [file.relative_to(root) for file in absolute]
    short = [os.fspath(path.with_suffix("")) for path in relative]
    return [
        name if short.count(name) == 1 else os.fspath(path)
        for name, path in zip(short, relative, strict=True)
    ]
