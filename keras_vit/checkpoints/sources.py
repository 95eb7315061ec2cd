"""From what a user names to a file on this machine: a path, an address, or a catalogue's name."""

import pathlib

from keras_vit.checkpoints import augreg, catalog, download
from keras_vit.checkpoints.errors import CheckpointError

FILE_ENDINGS = (".npz", ".keras", ".safetensors")


def locate(source):
    """The file that a source stands for; fetched into the cache where it is not here yet.

    Args:
        source: path of a file or folder, an `https://` or `gs://` address, a name of
            `list_checkpoints()`, or one that AugReg's index resolves: `augreg/R26_S_32` for the
            file that the official loader takes, `augreg/R26_S_32--cifar100-res_224` for its best
            fine-tuning, which a full pre-trained name may stand in front of as well.

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
    folder, _, choice = name.partition("/")
    try:
        if folder == "augreg" and augreg.is_choice(choice):
            name = f"augreg/{augreg.augreg_index().resolve(choice)}"
        return catalog.get_checkpoint(name)
    except ValueError as error:
        raise CheckpointError(name, f"there is no such file; {error}") from error
