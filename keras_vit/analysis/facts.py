"""What a model is, in words and numbers that need no image."""

import dataclasses
import os
import pathlib

from keras_vit.analysis.blocks import check_model
from keras_vit.analysis.segmentation import under_decoder
from keras_vit.analysis.statistics import weight_statistics
from keras_vit.models.cost import count_decoder_multiply_adds, count_multiply_adds


def model_facts(model, source=""):
    """What a model is.

    Args:
        model: A model of the package.
        source: What the user named it by.

    Returns:
        A dict of plain values: `source`, `family`, `dtype`, `parameters`, `multiply_adds` (of one
        image), `architecture` (the fields of its configuration), `layers` (one dict a layer:
        `name`, `type`, `output`, `parameters`), `preprocessing`, `origin`, `file` (`path`, `bytes`;
        of a source that is on this machine), `class_names`, `weights` (`weight_statistics`) and,
        of a segmentation model, `decoder` (the fields of its head); its architecture is that of
        what is under the decoder.
    """
    subject = under_decoder(model)
    check_model(subject, "a description")
    head = None if subject is model else model.head
    multiply_adds = count_multiply_adds(subject.config)
    if head is not None:
        multiply_adds += count_decoder_multiply_adds(subject.config, head)
    return {
        "source": str(source),
        "family": type(model).__name__,
        "dtype": model.dtype_policy.name,
        "parameters": int(model.count_params()),
        "multiply_adds": int(multiply_adds),
        "architecture": dataclasses.asdict(subject.config),
        **({} if head is None else {"decoder": dataclasses.asdict(head)}),
        "layers": [_layer(layer) for layer in model.layers],
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "origin": dict(model.origin or {}),
        "file": _file(source),
        "class_names": None if model.class_names is None else list(model.class_names),
        "weights": weight_statistics(model),
    }


def _layer(layer):
    return {
        "name": layer.name,
        "type": type(layer).__name__,
        "output": tuple(layer.output.shape[1:]),
        "parameters": int(layer.count_params()),
    }


def _file(source):
    path = pathlib.Path(source)
    if not os.fspath(source) or not path.exists():
        return {}
    size = path.stat().st_size if path.is_file() else None
    return {"path": os.fspath(source), "bytes": size}
