"""Models on Hugging Face's hub: from a name or an address to files on this machine.

What a repository holds is asked once for each revision (`api/models/<repository>/revision/<it>`);
the answer names the commit, and for large files size and SHA-256, which what comes must have.  The
files themselves come from that commit, through `download.fetch`: cached, resumed, verified.

In the environment, `HF_ENDPOINT` is the address of a mirror and `HF_TOKEN` what private and gated
repositories want; it is sent to the hub alone and never written or shown.
"""

import dataclasses
import os
import re
import urllib.parse

from keras_vit.checkpoints.catalog.published import get_published
from keras_vit.checkpoints.containers import files, safetensors
from keras_vit.checkpoints.containers.arrays import PYTORCH, PYTORCH_ENDINGS
from keras_vit.checkpoints.download import fetch, urls
from keras_vit.errors import CheckpointError, DownloadError
from keras_vit.files import open_regular

HUB = "https://huggingface.co"
SCHEME = "hf://"
# What is read of a repository, the first that it has.
WEIGHTS = ("model.safetensors", f"model{files.INDEX_ENDING}", "model.keras", "model.weights.h5")
MAX_ANSWER_BYTES = 4 << 20
MAX_FILES = 10_000

_REPOSITORY = r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}"
_REVISION = r"[\w][\w./-]{0,127}"
_NAME = re.compile(rf"{re.escape(SCHEME)}({_REPOSITORY})(?:@({_REVISION}))?", re.ASCII)
_PAGE = re.compile(
    rf"/({_REPOSITORY})(?:/(?:tree|resolve|blob)/([\w.-]+)(?:/([\w][\w.-]*))?)?/?", re.ASCII
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A repository on the hub.

    Attributes:
        repository: `owner/name`.
        revision: A branch, tag or commit.
        file: The one file that is wanted, or None for the first of `WEIGHTS`.
    """

    repository: str
    revision: str = "main"
    file: str | None = None


def endpoint():
    """The hub's address, or its mirror's."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def find(source):
    """The `Place` that a source names, or None if it is no name of the hub's.

    >>> find("hf://google/vit-base-patch16-224@v1")
    Place(repository='google/vit-base-patch16-224', revision='v1', file=None)
    >>> find("vit_small_patch14_dinov2").repository
    'timm/vit_small_patch14_dinov2.lvd142m'

    Raises:
        ValueError: for a name that begins with `hf://` and does not go on as it must.
    """
    if match := _NAME.fullmatch(source):
        return Place(match[1], match[2] or "main")
    if source.startswith(SCHEME):
        raise ValueError(
            f"a model on the hub is hf://owner/name or hf://owner/name@revision. "
            f"Received: {source[:200]!r}"
        )
    if row := get_published(source):
        return Place(row.repository)
    for base in dict.fromkeys((endpoint(), HUB)):
        if source.startswith(f"{base}/"):
            path = urls.parse(source).path
            if match := _PAGE.fullmatch(path.removeprefix(urls.parse(base).path)):
                return Place(match[1], match[2] or "main", match[3])
    return None


def fetch_model(place, sha256=None):
    """The path of a repository's weights in the cache, with the JSON files that belong to them.

    Args:
        place: `Place`.
        sha256: Hexadecimal digest that the weights must have; None takes the hub's.

    Raises:
        CheckpointError: if the repository has no weights that can be read.
        DownloadError: if a file cannot be had.
    """
    commit, listed = _contents(place)
    weights = place.file or next((name for name in WEIGHTS if name in listed), None)
    if weights not in listed:
        pickles = sorted(name for name in listed if name.endswith(PYTORCH_ENDINGS))
        if pickles and place.file is None:
            raise CheckpointError(f"{place.repository}/{pickles[0]}", f"is {PYTORCH}")
        wanted = place.file or " or ".join(WEIGHTS)
        raise CheckpointError(place.repository, f"there is no {wanted} in this repository")
    side_files = ("config.json", *files.SIDE_FILES, files.TASK_FILE)
    for name in side_files:
        if name in listed:
            _fetch_file(place, commit, name, listed[name])
    path = _fetch_file(place, commit, weights, listed[weights], sha256)
    if weights.endswith(files.INDEX_ENDING):
        for name in files.shards_of(path):
            if name not in listed:
                raise CheckpointError(place.repository, f"there is no {name} in this repository")
            _fetch_file(place, commit, name, listed[name])
    return path


def _contents(place):
    """(commit, file name -> (size, SHA-256 or None)) of a repository."""
    revision = urllib.parse.quote(place.revision, safe="")
    url = f"{endpoint()}/api/models/{place.repository}/revision/{revision}?blobs=true"
    path = _fetch(place, url)
    with open_regular(path) as file:
        text = file.read(MAX_ANSWER_BYTES + 1)
    answer = safetensors.parse_json(path, text[:MAX_ANSWER_BYTES], "the hub's answer")
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CheckpointError(path, "the hub's answer names no commit")
    if not isinstance(siblings, list) or len(siblings) > MAX_FILES:
        raise CheckpointError(path, "the hub's answer has no list of files")
    return commit, dict(_facts(path, entry) for entry in siblings)


def _facts(path, entry):
    entry = entry if isinstance(entry, dict) else {}
    name, size, large = entry.get("rfilename"), entry.get("size"), entry.get("lfs") or {}
    digest = large.get("sha256") if isinstance(large, dict) else None
    if isinstance(large, dict) and large.get("size") is not None:
        size = large["size"]
    right_size = size is None or (type(size) is int and 0 <= size < 1 << 62)
    right_digest = digest is None or (
        isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
    )
    if not isinstance(name, str) or not right_size or not right_digest:
        raise CheckpointError(path, "the hub's answer describes a file that cannot be")
    return name, (size, digest)


def _fetch_file(place, commit, name, facts, sha256=None):
    url = f"{endpoint()}/{place.repository}/resolve/{commit}/{urllib.parse.quote(name, safe='')}"
    size, digest = facts
    return _fetch(place, url, num_bytes=size, sha256=sha256 or digest)


def _fetch(place, url, **facts):
    try:
        return fetch.fetch(url, token=os.environ.get("HF_TOKEN") or None, **facts)
    except DownloadError as error:
        if any(f": {status} " in str(error) for status in (401, 403)):
            raise DownloadError(
                f"{place.repository} cannot be read: it does not exist, or it is private or gated "
                "and wants a token in the environment's HF_TOKEN of somebody who may read it"
            ) from error
        raise
