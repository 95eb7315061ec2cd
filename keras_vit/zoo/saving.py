"""Files from models: what a model is to the checkpoint formats, and how it is written as one."""

import dataclasses
import pathlib

from keras_vit.checkpoints import matching
from keras_vit.checkpoints.containers import files
from keras_vit.checkpoints.format import About, Architecture, Format
from keras_vit.checkpoints.formats.registry import format_for, get_format
from keras_vit.errors import CheckpointError
from keras_vit.files import check_not_empty_path
from keras_vit.layers import lora
from keras_vit.layers.trainable import get_quantized
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.families import family_of, num_positions
from keras_vit.models.fields import optional_parts
from keras_vit.models.pixel_model import network_of
from keras_vit.zoo.card import model_card


def save_pretrained(model, path, *, format=None, dtype=None, overwrite=True, card=False):
    """Writes a model's weights as a file that the official code loads.

    A model that came from a file of the same format is written with that file's spelling of the
    keys, and in its 16-bit type if it had one that still loses nothing, so that loading and saving
    give the same arrays under the same names.

    Of a model with LoRA (`keras_vit.training.tuning`) the merged kernels are written, those of an
    ordinary model.

    Args:
        model: a model of this package; of one with its preprocessing built in, the model in it.
        path: the `.npz`, `.safetensors` or `.h5` file, or a folder for it, as `convert` takes one;
            written beside and renamed, so that it is never half a file.  Formats that need a
            `config.json` write it into the same folder, with class names and preprocessing where
            they have a place for them.
        format: a name of `docs/checkpoints.md`, such as `"vit_jax"`; None takes the one that the
            model came from, else the first that can hold it.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, to which the weights are rounded; None for
            the 16-bit type that they came in as long as it loses nothing, else float32.
        overwrite: whether an existing file may be replaced.
        card: Whether a model card, `README.md`, is written beside it: what a hub shows.

    Returns:
        The path of the file with the arrays, a `pathlib.Path`.

    Raises:
        CheckpointError: if the format cannot hold the model, it is quantised, a weight is too large
            for `dtype`, or the file cannot be written.
        ValueError: for an unknown format or dtype.
        TypeError: for a model that is not of this package.
    """
    check_not_empty_path(path, "`path`")
    path = pathlib.Path(path)
    model = network_of(model)
    if not isinstance(model, ImageClassifier):
        raise TypeError(f"`model` must be a model of keras_vit. Received: {type(model).__name__}")
    if get_quantized(model):
        raise CheckpointError(
            path, "formats hold floats, and the model is quantised; `model.save('MODEL.keras')`"
        )
    path = _file_in_folder(model, path, format)
    if path.exists() and not overwrite:
        raise CheckpointError(path, "exists already; give `overwrite=True` to replace it")
    plan = WritingPlan.of(model, path, format)
    arrays = lora.merged_arrays(model)
    arrays = matching.arrays_for_file(
        path, plan.format_, plan.architecture, arrays, layout=plan.layout, prefix=plan.prefix
    )
    arrays = files.in_dtype(path, arrays, dtype, came_in=plan.half)
    files.write(path, arrays, plan.side_files())
    if card:
        with files.replacing(path.parent / "README.md") as file:
            file.write(model_card(model, plan.format_.name, path.parent.name).encode())
    return path


def why_no_format(model):
    """Why no format can hold a model, in the words of the first of its family; [] where one can."""
    architecture = describe(model.config)
    came_from = (model.origin or {}).get("format")
    return format_for(architecture, came_from).cannot_hold(architecture)


def _file_in_folder(model, path, format):
    """The file that a path without the ending of one stands for: the format's, in that folder."""
    if path.suffix in files.WRITERS and not path.is_dir():
        return path
    if path.suffix and not path.is_dir():
        return path  # a wrong ending, which the writer names
    came_from = (model.origin or {}).get("format")
    format_ = get_format(format) if format else format_for(describe(model.config), came_from)
    if format_.folder_file is None:
        raise ValueError(
            f"{format_.name} is a single file, whose name must end with .npz. Received: {path}"
        )
    return path / format_.folder_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritingPlan:
    """How a model will be written: decided before a number is read.

    Attributes:
        format_: `Format`.
        architecture: `Architecture` of the model.
        layout: name of the format's layout, or None for its first.
        prefix: before every key, or None for the format's first.
        half: the 16-bit type that the weights came in, or None.
        about: class names and preprocessing.
    """

    format_: Format
    architecture: Architecture
    layout: str | None
    prefix: str | None
    half: str | None
    about: About

    def side_files(self):
        """The JSON files that belong beside the arrays: name -> content."""
        if self.format_.side_files is None:
            return {}
        placeholders = self.format_.layouts[self.layout or next(iter(self.format_.layouts))]
        return self.format_.side_files(self.architecture, placeholders, self.about)

    @classmethod
    def of(cls, model, path, format=None):
        """The plan for a model, a path, and the name of a format or None."""
        origin = model.origin or {}
        architecture = describe(model.config)
        format_ = get_format(format) if format else format_for(architecture, origin.get("format"))
        same = origin if origin.get("format") == format_.name else {}
        layout = same.get("layout")
        if format_.layout_for is not None:
            layout = format_.layout_for(pathlib.Path(path).name, architecture, layout)
        return cls(
            format_=format_,
            architecture=architecture,
            layout=layout,
            prefix=same.get("prefix"),
            half=same.get("dtype"),
            about=About(
                class_names=model.class_names,
                preprocessing=dataclasses.asdict(model.preprocessing),
            ),
        )


def describe(config):
    """The `Architecture` that the checkpoint formats know of a model's configuration."""
    return Architecture(
        family_of(config).name,
        dataclasses.asdict(config),
        num_positions(config),
        optional_parts=optional_parts(config),
    )
