"""Folders of images: a walk that is safe, ordered, and names what it will not take."""

import contextlib
import dataclasses
import os
import pathlib
import re
import stat
import unicodedata

import numpy as np
from absl import logging

from keras_vit.data.images import decode
from keras_vit.errors import DataLayoutError

SPLITS = ("train", "validation", "test")
_MAGIC_BYTES = 12
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """The files of one split, in the order of class and then name.

    Args:
        paths: the files' paths.
        labels: the class of each, counted from 0 in the order of the class names; or float32
            (n, C), 1 for the labels of an image that may have several, or values.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...] | np.ndarray


def _skipped(name):
    """Dot-files and what macOS leaves in archives."""
    return name.startswith(".") or name == "__MACOSX"


def _refuse(path, message, *, is_structure=False):
    del path, is_structure
    raise DataLayoutError(message)


@contextlib.contextmanager
def _unreadable(path, refuse):
    """Takes an OSError, which names its path, as an entry that is left out, unless it may pass."""
    try:
        yield
    except OSError as error:
        if refuse is _refuse:
            raise
        refuse(str(path), error.strerror)


def _entries(folder, refuse=_refuse):
    """The entries of a folder, sorted by name, without the skipped ones."""
    entries, kept = [], []
    with _unreadable(folder, refuse), os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        if _skipped(entry.name):
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            refuse(
                os.fsencode(entry.path).decode(errors="backslashreplace"),
                f"A name must be valid UTF-8. Received: {os.fsencode(entry.name)!r} in {folder}; "
                "rename it.",
            )
            continue
        kept.append(entry)
    return kept


def _class_names(folder, refuse, files_pass=False):
    """The sorted names of the class folders; files beside them are refused, or passed over."""
    names, normalized = [], {}
    for entry in _entries(folder, refuse):
        if not entry.is_dir(follow_symlinks=False):
            if files_pass and entry.is_file():
                continue
            refuse(
                entry.path,
                f"A split's folder may hold class folders only. Received: {entry.path}; move it "
                "into its class or away.",
            )
            continue
        twin = normalized.setdefault(unicodedata.normalize("NFC", entry.name), entry.name)
        if twin != entry.name:
            refuse(
                entry.path,
                f"Two class names in {folder} look the same and differ in their Unicode form. "
                f"Received: {os.fsencode(twin)!r} and {os.fsencode(entry.name)!r}; merge them.",
                is_structure=True,
            )
        names.append(entry.name)
    return names


def in_natural_order(names):
    """Sorts names by their bytes, or, where all of them are numbers, by these.

    >>> in_natural_order(["10", "9", "-1"]), in_natural_order(["10", "9", "b"])
    (['-1', '9', '10'], ['10', '9', 'b'])
    """
    names = sorted(names, key=os.fsencode)
    if all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        names.sort(key=int)
    return names


def _class_files(folder, root, refuse):
    """The paths of a class's files; a link that repeats a file of this class is dropped."""
    paths, links = [], []
    for entry in _entries(folder, refuse):
        mode = None
        with _unreadable(entry.path, refuse):  # a broken link, a loop of links, no permission
            mode = entry.stat().st_mode
        if mode is None:
            continue
        if not stat.S_ISREG(mode):
            refuse(
                entry.path,
                f"A class folder may hold regular files only. Received: {entry.path}, a "
                f"{'folder' if stat.S_ISDIR(mode) else 'special file'}; move it away.",
            )
            continue
        (links if entry.is_symlink() else paths).append(entry.path)
    seen = {os.path.realpath(path) for path in paths} if links else set()
    num_dropped = 0
    for link in links:
        target = os.path.realpath(link)
        if not pathlib.Path(target).is_relative_to(root):
            refuse(
                link,
                f"A link may not leave the data set's folder. Received: {link} -> {target}; copy "
                "the file.",
            )
            continue
        if target in seen:
            num_dropped += 1
            continue
        seen.add(target)
        paths.append(link)
    if num_dropped:
        logging.warning("%s: %d links repeat files and are left out", folder, num_dropped)
    if not paths:
        refuse(
            str(folder),
            f"A class must have images. Received: {folder}, without any; remove it.",
            is_structure=True,
        )
    return sorted(paths, key=os.fsencode)


def is_unsplit(root):
    """Whether a folder holds classes, and no split.

    Args:
        root: the folder's path.

    Returns:
        Whether it has subfolders, none of them is named like a split, and at least one of them has
        a file.
    """

    def entries(folder):
        return _entries(folder, lambda *_, **__: None)  # what is wrong is said by those that read

    folders = [entry for entry in entries(root) if entry.is_dir()]
    if not folders or any(entry.name in SPLITS for entry in folders):
        return False
    return any(inner.is_file() for entry in folders for inner in entries(entry.path))


def read_classes(root, refuse=_refuse):
    """Lists the pictures of a folder in the layout `<class>/<image>`.

    Args:
        root: the folder's path; files beside the classes are not looked at.
        refuse: as in `read_folder`.

    Returns:
        `(class_names, files)`: a tuple of names, and a `FolderSplit` of all files.

    Raises:
        ValueError, OSError: as `read_folder`.
    """
    root = pathlib.Path(root).expanduser().resolve()
    names = in_natural_order(_class_names(root, refuse, files_pass=True))
    paths, labels = _files_of(root, names, root, refuse)
    return tuple(names), FolderSplit(paths, labels)


def _files_of(folder, names, root, refuse):
    """Paths and labels of the files in class folders."""
    paths, labels = [], []
    for label, name in enumerate(names):
        files = _class_files(folder / name, root, refuse)
        paths += files
        labels += [label] * len(files)
    return tuple(paths), tuple(labels)


def read_folder(root, refuse=_refuse):
    """Lists a data set in the layout `{train,validation,test}/<class>/<image>`.

    The classes are those of the first split that is there, sorted by the bytes of their names, or,
    where all of them are numbers, by these; each further split has the same ones.  Dot-files and
    `__MACOSX` are skipped.  No file is opened: what is not an image of a known format, whatever its
    name, is an error when it is decoded.

    Args:
        root: the folder's path.
        refuse: a function of (path, message, is_structure=False) that is called with what breaks a
            rule; by default it raises ValueError.  If it returns, the walk goes on without the
            entry; `is_structure` says that it is no single entry that is wrong.

    Returns:
        `(class_names, splits)`: a tuple of names, and a dict from split name to `FolderSplit`.

    Raises:
        ValueError: for a folder without splits, an unknown split, an empty class, splits of
            different classes, an entry that is not a regular file, a link out of the folder, or a
            name that is not UTF-8.
        OSError: for what cannot be read.
    """
    root = pathlib.Path(root).expanduser().resolve()
    found = [entry.name for entry in _entries(root, refuse)]
    unknown = [name for name in found if name not in SPLITS and (root / name).is_dir()]
    if unknown or not found:
        refuse(
            str(root),
            f"A data set's folder must hold {SPLITS}, some of them, and within each a folder for "
            f"each class, or a folder for each class and no split. Received: {root} with "
            f"{unknown or 'nothing'}; rename or move these.",
            is_structure=True,
        )
    class_names, splits, first = (), {}, None
    for split in (split for split in SPLITS if split in found):
        names = tuple(in_natural_order(_class_names(root / split, refuse)))
        if first is None:
            first, class_names = split, names
        if names != class_names or not names:
            missing = [f" - {name}" for name in sorted(set(class_names) - set(names))]
            unexpected = [f" + {name}" for name in sorted(set(names) - set(class_names))]
            refuse(
                str(root / split),
                f"Each split must have the same classes, at least one. Received: {root / split}, "
                f"beside {first!r}:\n" + "\n".join(missing + unexpected or ["no class"]),
                is_structure=True,
            )
        splits[split] = FolderSplit(*_files_of(root / split, names, root, refuse))
    if not splits and not unknown:
        refuse(
            str(root),
            f"A data set's folder must hold {SPLITS}, some of them. Received: {root} with {found}.",
            is_structure=True,
        )
    return class_names, splits


def _images_below(folder):
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _images_below(entry.path)
        elif entry.is_file():  # not a pipe or device, which would hang
            with open(entry.path, "rb") as file:
                if decode.looks_like_image(file.read(_MAGIC_BYTES)):
                    yield entry.path


def read_images(root):
    """Lists a folder of images without classes.

    Args:
        root: The folder's path; where it has folders called as in `SPLITS`, these are its splits,
            else all images below it are its training split.

    Returns:
        A dict from split name to `FolderSplit`, with the label 0 for every image.

    Raises:
        ValueError: For a folder without images.
        OSError: For what cannot be read.
    """
    root = pathlib.Path(root).expanduser().resolve()
    parts = {split: root / split for split in SPLITS if (root / split).is_dir()}
    splits = {}
    for split, folder in (parts or {SPLITS[0]: root}).items():
        paths = tuple(map(str, image_files([folder])))
        splits[split] = FolderSplit(paths, (0,) * len(paths))
    return splits


def image_files(paths):
    """Expands files and folders into the files to predict.

    Args:
        paths: paths of files, which are kept whatever they hold, and of folders, whose JPEG and PNG
            files are taken, told by their first bytes, in all subfolders, sorted.  Links to folders
            are not followed; dot-files and `__MACOSX` are skipped.

    Returns:
        A list of `pathlib.Path`, in the order of `paths`.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a folder without images, or a path that is neither a file nor a folder.
    """
    files = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = [pathlib.Path(name) for name in _images_below(path)]
            if not found:
                raise ValueError(
                    f"A folder must hold {decode.FORMATS} images. Received: {path}, without any."
                )
            files += found
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise ValueError(
                f"A path must be a regular file or a folder. Received: {path}, a special file."
            )
        else:
            raise FileNotFoundError(f"No such file or folder. Received: {path}")
    return files
