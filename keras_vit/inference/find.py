"""The image files that paths stand for; what is wrong with one entry costs no other."""

import os
import pathlib
import stat

from keras_vit.data.images import decode
from keras_vit.files import open_regular

_MAGIC_BYTES = 32
# What people and cameras call images, decoded here or not: such a file always gets an answer.
IMAGE_ENDINGS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
        ".heic", ".heif", ".avif", ".jxl", ".jp2",
    )
)  # fmt: skip


def find_images(paths):
    """Lists the files that paths stand for.

    Args:
        paths: Of files, which are kept whatever they hold, and of folders, in which all files are
            taken that are images by their ending or their first bytes, in all subfolders, sorted.
            Links to folders are not followed; dot-files and `__MACOSX` are left out.

    Returns:
        `(files, failures)`: a list of `pathlib.Path`, and a list of (path, why there is nothing to
        be read), with an entry for each path, subfolder or image that cannot be read.
    """
    files, failures = [], []
    for path in paths:
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                num_before = len(files) + len(failures)
                _walk(path, files, failures)
                if len(files) + len(failures) == num_before:
                    failures.append((path, "there is no image in this folder"))
            elif stat.S_ISREG(mode):
                files.append(pathlib.Path(path))
            else:
                failures.append((path, "not a regular file or folder"))
        except (OSError, ValueError) as error:
            failures.append((path, explain(error)))
    return files, failures


def explain(error):
    """What the file system says, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return getattr(error, "strerror", None) or str(error)


def _walk(folder, files, failures):
    # A stack and no recursion: folders may be nested deeper than Python's calls.
    stack = [iter(_entries(folder, failures))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        is_image = pathlib.PurePath(entry.name).suffix.lower() in IMAGE_ENDINGS
        try:
            if entry.is_dir(follow_symlinks=False):
                stack.append(iter(_entries(entry.path, failures)))
                continue
            if stat.S_ISREG(entry.stat().st_mode):
                if is_image or _starts_as_image(entry.path):
                    files.append(pathlib.Path(entry.path))
            elif is_image:
                failures.append((entry.path, "not a regular file"))
        except OSError as error:  # a broken link, a loop of links, no permission
            failures.append((entry.path, explain(error)))


def _entries(folder, failures):
    try:
        with os.scandir(folder) as scan:
            entries = [e for e in scan if not e.name.startswith(".") and e.name != "__MACOSX"]
    except OSError as error:
        failures.append((folder, explain(error)))
        return []
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _starts_as_image(path):
    with open_regular(path) as file:
        return decode.looks_like_image(file.read(_MAGIC_BYTES))
