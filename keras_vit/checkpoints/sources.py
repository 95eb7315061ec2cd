"""From what a user names to a file on this machine: a path, an address, or a catalogue's name."""

import hashlib
import pathlib
import re

from keras_vit.checkpoints import augreg, catalog, download
from keras_vit.checkpoints.errors import CheckpointError

FILE_ENDINGS = (".npz", ".keras", ".safetensors", ".h5")


def locate(source, sha256=None):
    """The file that a source stands for; fetched into the cache where it is not here yet.

    Args:
        source: path of a file or folder, an `https://` or `gs://` address, a name of
            `list_checkpoints()`, or one that AugReg's index resolves: `augreg/R26_S_32` for the
            file that the official loader takes, `augreg/R26_S_32--cifar100-res_224` for its best
            fine-tuning, which a full pre-trained name may stand in front of as well.
        sha256: hexadecimal digest that the file must have; None takes the catalogue's, if any.

    Returns:
        (path, `Checkpoint` of the catalogue or None).

    Raises:
        CheckpointError: if there is no such file, and no such name in the catalogue; if a file on
            this machine has another digest.
        DownloadError: if the file cannot be had.
    """
    name = str(source)
    if "://" in name:
        checkpoint = catalog.by_address(name)
        known = checkpoint.sha256 if checkpoint is not None else None
        return download.fetch(name, sha256=sha256 or known), checkpoint
    path = pathlib.Path(source)
    if path.exists() or path.suffix in FILE_ENDINGS:
        if sha256 is not None:
            check_digest(path, sha256)
        return path, None
    checkpoint = _checkpoint(name)
    found = download.fetch(
        checkpoint.url, num_bytes=checkpoint.num_bytes, sha256=sha256 or checkpoint.sha256
    )
    return found, checkpoint


def check_digest(path, sha256):
    """Raises CheckpointError unless a file has this SHA-256 digest, ValueError if that is none."""
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits. Received: {sha256!r}")
    if not path.is_file() or path.suffix == ".json":
        raise CheckpointError(path, "a digest is that of one file; this is none, or several")
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
    if found != sha256.lower():
        raise CheckpointError(path, f"has the SHA-256 digest {found}, not {sha256.lower()}")


def _checkpoint(name):
    folder, _, choice = name.partition("/")
    try:
        if folder == "augreg" and augreg.is_choice(choice):
            name = f"augreg/{augreg.augreg_index().resolve(choice)}"
        return catalog.get_checkpoint(name)
    except ValueError as error:
        raise CheckpointError(name, f"there is no such file; {error}") from error
