"""Vision Transformer, its hybrids and BiT-ResNets for Keras, with the official weights.

Models:       create_model, list_models, VisionTransformer, HybridVisionTransformer, BiTResNet and
              their configurations
Checkpoints:  from_pretrained, save_pretrained, load_weights, convert, list_checkpoints,
              augreg_index, CheckpointError
Data:         list_datasets, preprocess, include_preprocessing
Work:         list_recipes, pretrain, finetune, sweep, evaluate, predict, export, reproduce

What needs TensorFlow's data pipelines or a download is imported when it is first used.
"""

import importlib
import importlib.metadata
import pathlib
import sys

from keras_vit.lazy import submodules_of
from keras_vit.version import __version__

_submodule = submodules_of(__name__)

# public name -> module
_PUBLIC = {
    "BiTResNet": "keras_vit.models",
    "BiTResNetConfig": "keras_vit.models",
    "CheckpointError": "keras_vit.errors",
    "HybridVisionTransformer": "keras_vit.models",
    "HybridVisionTransformerConfig": "keras_vit.models",
    "Preprocessing": "keras_vit.models",
    "VisionTransformer": "keras_vit.models",
    "VisionTransformerConfig": "keras_vit.models",
    "augreg_index": "keras_vit.checkpoints.catalog.augreg",
    "convert": "keras_vit.zoo.conversion",
    "create_model": "keras_vit.zoo.loading",
    "evaluate": "keras_vit.evaluators.classification",
    "export": "keras_vit.serving.export",
    "finetune": "keras_vit.training.run",
    "from_pretrained": "keras_vit.zoo.loading",
    "include_preprocessing": "keras_vit.models",
    "list_checkpoints": "keras_vit.checkpoints.catalog.lookup",
    "list_datasets": "keras_vit.data.catalog.names",
    "list_models": "keras_vit.zoo.loading",
    "list_recipes": "keras_vit.training.recipe_table",
    "load_weights": "keras_vit.zoo.weights",
    "predict": "keras_vit.inference.predict",
    "preprocess": "keras_vit.inference.preprocessing",
    "pretrain": "keras_vit.training.run",
    "reproduce": "keras_vit.paper.reproduce",
    "save_pretrained": "keras_vit.zoo.saving",
    "sweep": "keras_vit.training.sweep",
}
__all__ = ["__version__", *_PUBLIC]


def _is_command():
    """Whether this process is `keras-vit` or `python -m keras_vit`."""
    script = sys.argv[0] if sys.argv else ""
    return pathlib.PurePath(script).stem == "keras-vit" or (
        script == "-m" and "keras_vit" in sys.orig_argv
    )


def _refuse_foreign_package():
    """Raises ImportError where another distribution's package has the same import name.

    The name keras-vit on the package index belongs to another project, whose files would lie among
    this package's.
    """
    try:
        # Of an installed distribution, and not of a checkout that was once built under this name.
        record = importlib.metadata.distribution("keras-vit").read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:
        return
    if any(line.startswith("keras_vit/") for line in record.splitlines()):
        raise ImportError(
            "the distribution keras-vit has a package of the same import name, keras_vit, and its "
            "files are mixed with this one's. Run `pip uninstall keras-vit`, then install "
            "keras-vision-transformer again"
        )


_refuse_foreign_package()

# Keras finds the classes of `.keras` files only once they are imported.  The command imports what a
# subcommand needs and no more, so that `--help` and wrong flags are answered at once.
if not _is_command():
    importlib.import_module("keras_vit.models.families")


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    return _submodule(name)


def __dir__():
    return sorted(__all__)
