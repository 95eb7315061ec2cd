"""Where a conversion writes to: a file or a folder that appears whole or not at all."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile

from keras_vit.checkpoints.containers.files import WRITERS
from keras_vit.checkpoints.formats.registry import FORMATS, get_format
from keras_vit.errors import CheckpointError
from keras_vit.files import check_not_empty_path

KERAS = "keras"
KERAS_ENDING = ".keras"
# What the ending alone tells.
FORMAT_OF_ENDING = {KERAS_ENDING: KERAS, ".h5": "keras_hub"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A place, and what is written there.

    Attributes:
        path: what the user named.
        format_name: of the format, or `KERAS`.
        folder: that the files come to lie in.
        file_name: of the one with the arrays.
        is_folder: whether `path` is that folder.
    """

    path: pathlib.Path
    format_name: str
    folder: pathlib.Path
    file_name: str
    is_folder: bool

    @classmethod
    def of(cls, destination, format_name=None):
        """The target that a user names.

        Raises:
            ValueError: if name and format do not go together, or do not tell enough.
        """
        check_not_empty_path(destination, "the destination")
        path = pathlib.Path(destination)
        is_folder = path.is_dir() or path.suffix not in (KERAS_ENDING, *WRITERS)
        format_name = format_name or (None if is_folder else FORMAT_OF_ENDING.get(path.suffix))
        if format_name is None:
            raise ValueError(
                f"`format` must be one of {', '.join((*FORMATS, KERAS))}, as the name of the "
                f"destination does not tell it. Received: None for {path}"
            )
        if format_name == KERAS:
            folder_file = f"model{KERAS_ENDING}"
        else:
            folder_file = get_format(format_name).folder_file
        if is_folder and folder_file is None:
            raise ValueError(
                f"{format_name} is a single file, whose name must end with .npz. Received: {path}"
            )
        if is_folder:
            return cls(path, format_name, path, folder_file, True)
        if (path.suffix == KERAS_ENDING) != (format_name == KERAS):
            raise ValueError(
                f"the format {KERAS} and the ending {KERAS_ENDING} go together. "
                f"Received: {format_name!r} and {path}"
            )
        return cls(path, format_name, path.parent, path.name, False)

    def check_free(self, files, overwrite):
        """Raises `CheckpointError` if one of the files is there already and may not be replaced."""
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(self.folder, "is a file; a folder is expected")
        existing = [name for name in files if os.path.lexists(self.folder / name)]
        if existing and not overwrite:
            raise CheckpointError(
                self.folder,
                f"{', '.join(existing)} would be replaced; choose another place, or `overwrite`",
            )

    @contextlib.contextmanager
    def temporary_folder(self):
        """A folder on the same disk, gone at the end."""
        beside = self.folder.parent if self.is_folder else self.folder
        try:
            beside.mkdir(parents=True, exist_ok=True)
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=beside))
        except OSError as error:
            raise CheckpointError(self.path, f"cannot be written: {error.strerror}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder):
        """Moves all files of a folder to their place, that with the arrays last."""
        names = sorted(os.listdir(folder), key=lambda name: (name == self.file_name, name))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(folder / name, self.folder / name)
        except OSError as error:
            raise CheckpointError(self.path, f"cannot be written: {error.strerror}") from error
