"""The catalogue of official files: names, patterns, and the row of each (`official`)."""

import fnmatch
import re

from keras_vit.checkpoints.catalog import augreg, rows
from keras_vit.checkpoints.catalog.rows import Checkpoint
from keras_vit.checkpoints.download import urls
from keras_vit.names import close_names
from keras_vit.untrusted import quoted

__all__ = ["Checkpoint", "get_checkpoint", "list_checkpoints"]

_CATALOG = {checkpoint.name: checkpoint for checkpoint in rows.checkpoints()}


def list_checkpoints(pattern="*"):
    """The catalogue's names that match a shell pattern, in natural order (`B_8` before `B_16`).

    >>> list_checkpoints("sam/ViT-B*")
    ['sam/ViT-B_16', 'sam/ViT-B_32']
    """
    names = [name for name in _CATALOG if fnmatch.fnmatchcase(name, pattern)]
    return sorted(names, key=_natural)


def _natural(name):
    # Odd positions are the digits, so that like is compared with like.
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def by_address(url):
    """The `Checkpoint` whose file lies at a `gs://` or `https://` address, or None.

    >>> by_address("https://storage.googleapis.com/vit_models/sam/ViT-B_16.npz").name
    'sam/ViT-B_16'
    """
    address, layout = urls.locate(url)
    if address is not None:
        return None
    url = "gs://" + "/".join(layout)
    return next((c for c in _CATALOG.values() if c.url == url and not c.through_index), None)


def get_checkpoint(name):
    """The row of an official file.

    Args:
        name: one of `list_checkpoints()`, or `augreg/` and any file name formed by AugReg's rule.
            Names that stand for a choice from AugReg's index (`augreg.is_choice`) are resolved by
            `resolve.locate`.

    Returns:
        `Checkpoint`; for an AugReg file outside the table only what its name tells.

    Raises:
        ValueError: for an unknown name, listing close ones, or an ill-formed AugReg name.
    """
    if name in _CATALOG:
        return _CATALOG[name]
    folder, _, stem = name.partition("/")
    if folder == "augreg" and "-" in stem:
        return rows.from_stem(stem)
    if folder == "augreg" and stem in augreg.ARCHITECTURES:
        raise ValueError(
            f"{name!r} stands for many files; `augreg_index().best_upstream({stem!r})` names the "
            "one that the official loader takes"
        )
    close = close_names(name, _CATALOG, count=5, cutoff=0.5)
    hint = f"Did you mean {', '.join(close)}?" if close else "See list_checkpoints()"
    raise ValueError(f"Unknown checkpoint. Received: {quoted(name)}. {hint}")
