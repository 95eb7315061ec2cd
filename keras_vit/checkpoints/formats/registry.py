"""Format registry and detection, and which format a model is written in."""

from keras_vit.checkpoints.formats.big_vision import BIG_VISION
from keras_vit.checkpoints.formats.bit import BIT, BIT_PAPER
from keras_vit.checkpoints.formats.huggingface import HUGGINGFACE
from keras_vit.checkpoints.formats.huggingface_dinov2 import HUGGINGFACE_DINOV2
from keras_vit.checkpoints.formats.huggingface_towers import HUGGINGFACE_CLIP, HUGGINGFACE_SIGLIP
from keras_vit.checkpoints.formats.keras_hub import KERAS_HUB
from keras_vit.checkpoints.formats.timm import TIMM
from keras_vit.checkpoints.formats.vit_jax import VIT_JAX
from keras_vit.errors import CheckpointError
from keras_vit.names import close_names

FORMATS = {
    format_.name: format_
    for format_ in (
        *(VIT_JAX, BIT, BIG_VISION, BIT_PAPER, TIMM, HUGGINGFACE, KERAS_HUB),
        *(HUGGINGFACE_DINOV2, HUGGINGFACE_CLIP, HUGGINGFACE_SIGLIP),
    )
}


def get_format(name):
    """The `Format` of a name.

    Raises:
        ValueError: for an unknown name; lists the close ones.
    """
    if name not in FORMATS:
        close = close_names(name, FORMATS) or list(FORMATS)
        raise ValueError(f"unknown format. Received: {name!r}. Close: {', '.join(close)}")
    return FORMATS[name]


def format_for(architecture, came_from=None):
    """The `Format` to write a model in where none is asked for.

    Args:
        architecture: `Architecture` of the model.
        came_from: name of the format that its weights came in, if they did.

    Returns:
        That format, else the first of `FORMATS` that can hold the model; where none can, the first
        for the model's family, for its reasons.
    """
    first = [FORMATS[came_from]] if came_from in FORMATS else []
    candidates = [f for f in (*first, *FORMATS.values()) if architecture.family in f.families]
    able = (f for f in candidates if not f.cannot_hold(architecture))
    return next(able, (candidates or list(FORMATS.values()))[0])


# Of a name, how much is looked at for what a wrapper put before it.
_MAX_WRAPPER = 64


def find_format(path, keys):
    """The `Format` that has a mark among a file's keys.

    Raises:
        CheckpointError: if there is none, or more than one.
    """
    found = [
        format_
        for format_ in FORMATS.values()
        if format_.found_under({format_.respell(key) for key in keys})
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(format_.name for format_ in found)
        raise CheckpointError(path, f"has the marks of several formats ({names}); give `format=`")
    if any(key.startswith("layers/") for key in keys):
        raise CheckpointError(
            path,
            "of no known format: it looks like what Keras's `save_weights` writes, which does not "
            "tell its model; make the model and call its `load_weights`, or save it as .keras",
        )
    wrapped = _wrapped(keys)
    if wrapped is not None:
        raise CheckpointError(
            path,
            "of no known format: without {!r} before its names it would be of {}; take that off "
            "them".format(*wrapped),
        )
    marks = "; ".join(f"{f.name} has {f.signatures[0]}" for f in FORMATS.values())
    sample = ", ".join(sorted(keys)[:3])
    raise CheckpointError(path, f"of no known format: it holds {sample} ... ({marks})")


def _wrapped(keys):
    """(what stands before a file's names, the format without it), or None."""
    key = min(keys, default="")  # what is not before this one is not before all of them
    for start in (key[: at + 1] for at, letter in enumerate(key[:_MAX_WRAPPER]) if letter == "."):
        bare = {other.removeprefix(start) for other in keys if other.startswith(start)}
        for format_ in FORMATS.values():
            if format_.found_under({format_.respell(other) for other in bare}):
                return start, format_.name
    return None
