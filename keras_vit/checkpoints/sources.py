"""From what a user names to a file on this machine: a path, an address, or a catalogue's name."""

import pathlib

from keras_vit.checkpoints import augreg, catalog, download
from keras_vit.checkpoints.errors import CheckpointError

FILE_ENDINGS = (".npz", ".keras", ".safetensors")


def locate(source):
    """The file that a source stands for; fetched into the cache where it is not here yet.

    Args:
        source: path of a file or folder, an `https://` or `gs://` address, a name of
            `list_checkpoints()`, or `augreg/` and a bare model name such as `augreg/R26_S_32` for
            the file that the official loader takes.

    Returns:
        (path, `Checkpoint` of the catalogue or None).

    Raises:
        CheckpointError: if there is no such file, and no such name in the catalogue.
        DownloadError: if the file cannot be had.
    """
    name = str(source)
    if "://" in name:
        return download.fetch(name), None
    path = pathlib.Path(source)
    if path.exists() or path.suffix in FILE_ENDINGS:
        return path, None
    checkpoint = _checkpoint(name)
    found = download.fetch(checkpoint.url, num_bytes=checkpoint.num_bytes, sha256=checkpoint.sha256)
    return found, checkpoint


def _checkpoint(name):
    folder, _, model = name.partition("/")
    if folder == "augreg" and model in augreg.ARCHITECTURES:
        name = f"augreg/{augreg.best_upstream(augreg.augreg_index(), model)}"
    try:
        return catalog.get_checkpoint(name)
    except ValueError as error:
        raise CheckpointError(name, f"there is no such file; {error}") from error
