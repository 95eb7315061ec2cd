"""Vision Transformer, its hybrids and BiT-ResNets for Keras, with the official weights.

Models:       create_model, list_models, VisionTransformer, HybridVisionTransformer, BiTResNet and
              their configurations
Checkpoints:  from_pretrained, save_pretrained, load_weights, convert, list_checkpoints,
              augreg_index, CheckpointError
Data sets:    list_datasets
Work:         list_recipes, pretrain, finetune, sweep, evaluate, predict, export

What needs TensorFlow's data pipelines or a download is imported when it is first used.
"""

import importlib
import pathlib
import sys

from keras_vit.version import __version__

# public name -> module
_PUBLIC = {
    "BiTResNet": "keras_vit.models",
    "BiTResNetConfig": "keras_vit.models",
    "CheckpointError": "keras_vit.checkpoints.errors",
    "HybridVisionTransformer": "keras_vit.models",
    "HybridVisionTransformerConfig": "keras_vit.models",
    "Preprocessing": "keras_vit.models",
    "VisionTransformer": "keras_vit.models",
    "VisionTransformerConfig": "keras_vit.models",
    "augreg_index": "keras_vit.checkpoints.augreg",
    "convert": "keras_vit.conversion.convert",
    "create_model": "keras_vit.zoo",
    "evaluate": "keras_vit.evaluation.classification",
    "export": "keras_vit.serving.export",
    "finetune": "keras_vit.training.run",
    "from_pretrained": "keras_vit.zoo",
    "list_checkpoints": "keras_vit.checkpoints.catalog",
    "list_datasets": "keras_vit.data.listing",
    "list_models": "keras_vit.zoo",
    "list_recipes": "keras_vit.training.recipe_table",
    "load_weights": "keras_vit.loading",
    "predict": "keras_vit.serving.predict",
    "pretrain": "keras_vit.training.run",
    "save_pretrained": "keras_vit.saving",
    "sweep": "keras_vit.training.sweep",
}
__all__ = ["__version__", *_PUBLIC]


def _is_command():
    """Whether this process is `keras-vit` or `python -m keras_vit`."""
    script = sys.argv[0] if sys.argv else ""
    return pathlib.PurePath(script).stem == "keras-vit" or (
        script == "-m" and "keras_vit" in sys.orig_argv
    )


# Keras finds the classes of `.keras` files only once they are imported.  The command imports what a
# subcommand needs and no more, so that `--help` and wrong flags are answered at once.
if not _is_command():
    importlib.import_module("keras_vit.models")


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'keras_vit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
