"""From what a user names to a file on this machine: a path, an address, or a catalogue's name."""

import hashlib
import pathlib
import re

from keras_vit.checkpoints.catalog import augreg, hub, lookup
from keras_vit.checkpoints.catalog.rows import PACKAGED
from keras_vit.checkpoints.containers.arrays import PYTORCH_ENDINGS
from keras_vit.checkpoints.download import fetch
from keras_vit.errors import CheckpointError
from keras_vit.files import open_regular

FILE_ENDINGS = (".npz", ".keras", ".safetensors", ".h5", *PYTORCH_ENDINGS)
# Names that other libraries have for files: `google/vit-base-patch16-224` on the hub, and timm's.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_TIMM_NAME = re.compile(r"(?:timm/)?(?:vit|deit3?|resnetv2|flexivit|test_vit)\w*(?:\.\w+)?")
_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}


def locate(source, sha256=None):
    """The file that a source stands for; fetched into the cache where it is not here yet.

    Args:
        source: path of a file or folder, an `https://` or `gs://` address, a model on the hub
            (`hf://owner/name@revision`, its page's address, timm's `vit_...tag`), a name of
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
    place = hub.find(name)
    if place is not None and not _is_there(pathlib.Path(source)):
        return hub.fetch_model(place, sha256), None
    if "://" in name:
        checkpoint = lookup.by_address(name)
        known = checkpoint.sha256 if checkpoint is not None else None
        return fetch.fetch(name, sha256=sha256 or known), checkpoint
    path = pathlib.Path(source)
    if _is_there(path) or path.suffix in FILE_ENDINGS:
        if sha256 is not None:
            check_digest(path, sha256)
        return path, None
    checkpoint = _checkpoint(name)
    if checkpoint.url.startswith(PACKAGED):
        path = pathlib.Path(__file__).with_name(checkpoint.url.removeprefix(PACKAGED))
        check_digest(path, sha256 or checkpoint.sha256)
        return path, checkpoint
    found = fetch.fetch(
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
        with open_regular(path) as file:
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
        return lookup.get_checkpoint(name)
    except ValueError as error:
        raise CheckpointError(name, f"there is no such file; {_elsewhere(name)}{error}") from error


def _is_there(path):
    """Whether there is something of this name; a name that no file can have is none."""
    try:
        return path.exists()
    except OSError:
        return False


def _elsewhere(name):
    """What is to be done with a name that other libraries know."""
    size = re.search(r"(tiny|small|base|large|huge)[-_]patch(\d{1,2})", name)
    ours = f"{_SIZES[size[1]]}_{size[2]}" if size else ""
    similar = lookup.list_checkpoints(f"*/ViT-{ours}") if ours else []
    hint = f"the published {', '.join(similar[:3])} are of that size. " if similar else ""
    if _TIMM_NAME.fullmatch(name):
        return (
            "it looks like a name of timm's, whose registry does not have it: save the model there "
            "with `timm.models.save_for_hf(model, 'FOLDER')` and give the folder. " + hint
        )
    if _HUB_NAME.fullmatch(name) and name.partition("/")[0] not in _folders():
        return (
            f"it looks like a name on a hub of models: give hf://{name}, or download its "
            "model.safetensors and the .json files beside it into one folder and give that. " + hint
        )
    return ""


def _folders():
    """What stands before the slash in the catalogue's names."""
    return {checkpoint.partition("/")[0] for checkpoint in lookup.list_checkpoints()}
