"""The image files that paths stand for; what is wrong with one entry costs no other."""

import os
import pathlib
import stat
import typing

from keras_vit.data.images import decode
from keras_vit.files import open_regular

_MAGIC_BYTES = 32
# What people and cameras call images, decoded here or not: such a file always gets an answer.
IMAGE_ENDINGS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
        ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".ico", ".psd", ".svg", ".tga",
        ".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
        ".orf", ".rw2",
    )
)  # fmt: skip


class Found(typing.NamedTuple):
    """What lies under some paths.

    Attributes:
        files: `pathlib.Path` of each file that is to be read.
        failures: (path, why there is nothing to be read) of each path, subfolder or image.
        num_others: Number of files in folders that are no images, hidden ones not counted.
    """

    files: list
    failures: list
    num_others: int


def find_images(paths):
    """As `find_all`, without the number of other files: `(files, failures)`."""
    return find_all(paths)[:2]


def find_all(paths):
    """Lists the files that paths stand for.

    Args:
        paths: Of files, which are kept whatever they hold, and of folders, in which all files are
            taken that are images by their ending or their first bytes, in all subfolders, sorted.
            Links to folders are not followed; dot-files and `__MACOSX` are left out.

    Returns:
        `Found`.
    """
    files, failures, num_others = [], [], 0
    for path in paths:
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                num_before = len(files) + len(failures)
                num_others += _walk(path, files, failures)
                if len(files) + len(failures) == num_before:
                    failures.append((path, "there is no image in this folder"))
            elif stat.S_ISREG(mode):
                files.append(pathlib.Path(path))
            else:
                failures.append((path, "not a regular file or folder"))
        except (OSError, ValueError) as error:
            failures.append((path, explain(error)))
    return Found(files, failures, num_others)


def explain(error):
    """What the file system says, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return getattr(error, "strerror", None) or str(error)


def _walk(folder, files, failures):
    """Adds what a folder holds; returns the number of files that are no images."""
    num_others = 0
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
                else:
                    num_others += 1
            elif is_image:
                failures.append((entry.path, "not a regular file"))
        except OSError as error:  # a broken link, a loop of links, no permission
            failures.append((entry.path, explain(error)))
    return num_others


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
