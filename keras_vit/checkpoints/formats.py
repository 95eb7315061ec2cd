"""All formats, how a file's is found, and which one a model is written in."""

import difflib

from keras_vit.checkpoints.big_vision import BIG_VISION
from keras_vit.checkpoints.bit import BIT, BIT_PAPER
from keras_vit.checkpoints.errors import CheckpointError
from keras_vit.checkpoints.huggingface import HUGGINGFACE
from keras_vit.checkpoints.keras_hub import KERAS_HUB
from keras_vit.checkpoints.timm import TIMM
from keras_vit.checkpoints.vit_jax import VIT_JAX

FORMATS = {
    format_.name: format_
    for format_ in (VIT_JAX, BIT, BIG_VISION, BIT_PAPER, TIMM, HUGGINGFACE, KERAS_HUB)
}


def get_format(name):
    """The `Format` of a name.

    Raises:
        ValueError: for an unknown name; lists the close ones.
    """
    if name not in FORMATS:
        close = difflib.get_close_matches(str(name), FORMATS, n=3) or list(FORMATS)
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
    return next(able, candidates[0])


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
    marks = "; ".join(f"{f.name} has {f.signatures[0]}" for f in FORMATS.values())
    sample = ", ".join(sorted(keys)[:3])
    raise CheckpointError(path, f"of no known format: it holds {sample} ... ({marks})")
