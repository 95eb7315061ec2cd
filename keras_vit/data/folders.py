"""Folders of images: a walk that is safe, ordered, and names what it will not take."""

import contextlib
import dataclasses
import os
import pathlib
import stat
import unicodedata

from absl import logging

from keras_vit.data import decode

SPLITS = ("train", "validation", "test")
_MAGIC_BYTES = 8


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """The files of one split, in the order of class and then name.

    Args:
        paths: the files' paths.
        labels: the class of each, counted from 0 in the order of the class names.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]


def _skipped(name):
    """Dot-files and what macOS leaves in archives."""
    return name.startswith(".") or name == "__MACOSX"


def _refuse(path, message, *, is_structure=False):
    del path, is_structure
    raise ValueError(message)


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


def _class_names(folder, refuse):
    """The sorted names of a split's class folders."""
    names, normalized = [], {}
    for entry in _entries(folder, refuse):
        if not entry.is_dir(follow_symlinks=False):
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


def read_folder(root, refuse=_refuse):
    """Lists a data set in the layout `{train,validation,test}/<class>/<image>`.

    The classes are those of the first split that is there, sorted by the bytes of their names; each
    further split has the same ones.  Dot-files and `__MACOSX` are skipped.  No file is opened: what
    is not a JPEG or PNG, whatever its name, is an error when it is decoded.

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
            f"each class. Received: {root} with {unknown or 'nothing'}; rename or move these.",
            is_structure=True,
        )
    class_names, splits, first = (), {}, None
    for split in (split for split in SPLITS if split in found):
        names = tuple(_class_names(root / split, refuse))
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
        paths, labels = [], []
        for label, name in enumerate(names):
            files = _class_files(root / split / name, root, refuse)
            paths += files
            labels += [label] * len(files)
        splits[split] = FolderSplit(tuple(paths), tuple(labels))
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
                    f"A folder must hold JPEG or PNG images. Received: {path}, without any."
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
