"""Where models meet checkpoints: models by name, models from files, files from models."""

import concurrent.futures
import dataclasses
import os

from keras_vit.checkpoints.patches import adapt_channels, resize_patches
from keras_vit.errors import CheckpointError
from keras_vit.files import check_not_empty_path
from keras_vit.layers.initializers import blank_initialization
from keras_vit.layers.trainable import set_quantized
from keras_vit.models import Preprocessing
from keras_vit.models.families import FAMILIES, family_of, fields_of_all
from keras_vit.models.fields import pair, replace_fields
from keras_vit.models.pixel_model import include_preprocessing as with_preprocessing
from keras_vit.models.presets import get_preset, list_models
from keras_vit.zoo import file_ranges, memory
from keras_vit.zoo.opening import BIT_SIZE, open_checkpoint
from keras_vit.zoo.positions import check_size, fit_positions, resize_rule
from keras_vit.zoo.saving import save_pretrained
from keras_vit.zoo.segmentation import find_segmentation, load_segmentation

__all__ = ["create_model", "from_pretrained", "list_models", "save_pretrained"]

# Fields that no array tells and that need none: what `from_pretrained` lets a caller choose.
FREE_FIELDS = fields_of_all("chosen_at_load")

PATCH_KERNEL = "embedding/kernel"
# What a new head takes the place of.
HEAD_LAYERS = ("head", "head_dist", "pre_logits")


def create_model(
    model,
    *,
    num_classes=1000,
    image_size=224,
    class_names=None,
    include_preprocessing=False,
    name=None,
    dtype=None,
    **overrides,
):
    """A model with random weights, drawn as the official code draws them.

    Args:
        model: a name of `list_models()`, such as `"ViT-B/16"`.
        num_classes: width of the head; 0 for none.
        image_size: (height, width) in pixels, or one integer.
        class_names: one name for each class, or None.
        include_preprocessing: Whether the model takes pixels as they were decoded, in [0, 255] and
            of any size, and prepares them itself (`keras_vit.include_preprocessing`).
        name: Name of the Keras model.
        dtype: dtype or policy of the layers, such as `"mixed_bfloat16"`.
        **overrides: any other field of the model's configuration.

    Returns:
        A functional `keras.Model`: (B, height, width, 3) in [-1, 1] -> (B, num_classes) logits.

    Raises:
        ValueError: for an unknown name or field (lists the close ones), or a bad value.
    """
    config = get_preset(model)
    changes = {"num_classes": num_classes, "image_size": pair(image_size, "image_size")}
    config = replace_fields(config, {**changes, **overrides})
    built = family_of(config).model_class(config, class_names=class_names, name=name, dtype=dtype)
    return with_preprocessing(built) if include_preprocessing else built


def from_pretrained(
    source,
    *,
    num_classes=None,
    image_size=None,
    patch_size=None,
    in_channels=None,
    format=None,
    sha256=None,
    class_names=None,
    include_preprocessing=False,
    name=None,
    dtype=None,
    **overrides,
):
    """The model in a file; its architecture is read off the arrays alone.

    Args:
        source: a name of `list_checkpoints()` (downloaded once, then cached), an `https://` or
            `gs://` address, or the path of a `.npz` or `.safetensors` file of a known format
            (`docs/checkpoints.md`), of a `.keras` file of this package, or of a folder with one.
        num_classes: None keeps the file's head; a number drops head and representation layer and
            starts a new head at zero, as the paper's fine-tuning does; 0 leaves the head out.
        image_size: (height, width) in pixels, or one integer; None keeps that of the file.  Where
            the number of positions changes, they are interpolated (section 3.2 of the paper) by the
            rule of the file's library, which `position_resize` overrides.  As in the official code,
            positions whose number stays the same are taken as they are.  With
            `dynamic_image_size=True` the model takes images of any size that patches fill and keeps
            the file's positions; this is then the size that its preprocessing makes.
        patch_size: (height, width) in pixels, or one integer, of a Vision Transformer's patches;
            another than the file's has its kernel resized by the pseudo-inverse of a bilinear
            resize (FlexiViT, arXiv:2212.08013) and its positions interpolated.
        in_channels: Number of channels of the images that a Vision Transformer takes; another than
            the file's 3 has its first kernel adapted: 1 takes the sum over RGB, so that grey images
            give what their repetition as RGB gave, more repeat RGB in turn, scaled by
            3 / in_channels, as timm does.
        format: name of the file's format; None finds it.
        sha256: 64 hexadecimal digits that the file's digest must have; None takes the catalogue's,
            where it has one.  Only `.npz` and `.keras` files notice damaged values by themselves.
        class_names: one name for each class; None keeps the file's, if it has them and its head.
        include_preprocessing: Whether the model takes pixels as they were decoded, in [0, 255] and
            of any size, and prepares them itself (`keras_vit.include_preprocessing`).
        name: Name of the Keras model.
        dtype: dtype or policy of the layers.
        **overrides: fields of the configuration that no array tells: `FREE_FIELDS`.

    Returns:
        A functional `keras.Model` whose `origin` says where its weights come from.

    Raises:
        CheckpointError: if the file cannot be read or is not what it should be; lists all that is
            wrong with it.  Also for the published ImageNet-21k files whose heads are all zeros, if
            their head would be kept.
        DownloadError: if a file that is not here cannot be had.
        ValueError: for bad arguments.
    """
    for field in overrides:
        if field not in FREE_FIELDS:
            raise ValueError(
                f"only {', '.join(FREE_FIELDS)} can be chosen for a file. Received: {field}"
            )
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"`source` must be a name, an address or a path. Received: {type(source).__name__}"
        )
    check_not_empty_path(source, "`source`")
    segmentation = find_segmentation(source)
    if segmentation is not None:
        asked = (num_classes, image_size, patch_size, in_channels, format, class_names)
        if any(value is not None for value in asked) or include_preprocessing or overrides:
            raise ValueError(
                "a segmentation model is loaded as it is, by its name and dtype alone. Received: "
                f"other arguments for {source}"
            )
        return load_segmentation(segmentation, name=name, dtype=dtype)
    found = open_checkpoint(source, format, sha256, image_size)
    asked = (num_classes, image_size, patch_size, in_channels)
    if found.quantized and (overrides or any(value is not None for value in asked)):
        raise ValueError(
            "a quantised model is loaded with the sizes that it has. Received: other arguments for "
            f"{source}"
        )
    model = build_model(
        found,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        in_channels=in_channels,
        class_names=class_names,
        name=name,
        dtype=dtype,
        **overrides,
    )
    return with_preprocessing(model) if include_preprocessing else model


def build_model(
    found,
    *,
    num_classes=None,
    image_size=None,
    patch_size=None,
    in_channels=None,
    class_names=None,
    name=None,
    dtype=None,
    **overrides,
):
    """The model of an opened checkpoint; arguments and errors are those of `from_pretrained`."""
    source, checkpoint = found.source, found.checkpoint
    if checkpoint is not None and checkpoint.zero_head and num_classes is None:
        raise CheckpointError(
            source,
            f"{checkpoint.caveats[0]}; give `num_classes=` for a new head, 0 for features alone, "
            f"or load {found.path} to keep the zeros",
        )
    dropped = set() if num_classes is None else set(HEAD_LAYERS)
    fields = dict(found.architecture.fields)
    if num_classes is not None:
        fields.pop("use_head_bias", None)
        if "representation_size" in fields:
            fields["representation_size"] = None
    if overrides.get("dynamic_image_size") and fields.pop("partial_patches", False):
        del fields["image_size"]  # its rest is left out, which images of other sizes do not have
        whole = dataclasses.replace(found.architecture, fields=dict(fields))
        found = dataclasses.replace(found, architecture=whole)
    own_size = fields.get("image_size")
    fields["image_size"] = _image_size(source, found, image_size)
    asked = {
        **({} if image_size is None else {"image_size": image_size}),
        **({} if num_classes is None else {"num_classes": num_classes}),
        **_first_kernel_fields(found, patch_size, in_channels),
    }
    family = FAMILIES[found.architecture.family]
    config = _config(source, family, fields, asked)
    file_ranges.check(source, config, found.preprocessing, is_own_size=image_size is None)
    for field, value in overrides.items():
        if field.endswith("epsilon") and not (isinstance(value, int | float) and 0 <= value < 1):
            raise ValueError(f"`{field}` must be a number in [0, 1). Received: {value!r}")
    config = replace_fields(config, overrides)
    prepared_size = config.image_size
    if getattr(config, "dynamic_image_size", False):
        config, prepared_size = _dynamic(found, config, own_size, image_size)
    check_size(found, config)

    preprocessing = found.preprocessing or Preprocessing(image_size=config.image_size)
    if class_names is None and num_classes is None:
        class_names = found.class_names
    # Reading and building take about as long and do not hinder each other.
    with concurrent.futures.ThreadPoolExecutor(1) as reader, blank_initialization(memory.blank):
        paths = {path for path in found.variables if path.split("/")[0] not in dropped}
        reading = reader.submit(found.read, paths)
        model = family.model_class(
            config,
            preprocessing=preprocessing.with_image_size(prepared_size),
            class_names=class_names,
            origin=found.origin,
            task=found.task if num_classes is None else None,
            name=name,
            dtype=dtype,
        )
        set_quantized(model, found.quantized)
        arrays = reading.result()
    if PATCH_KERNEL in arrays:
        kernel = resize_patches(arrays[PATCH_KERNEL], config.patch_size)
        if family.name == "vit":
            kernel = adapt_channels(kernel, config.in_channels)
        arrays[PATCH_KERNEL] = kernel
    fit_positions(found, arrays, config)
    _assign(source, model, arrays, new_layers=dropped)
    return model


def _dynamic(found, config, own_size, image_size):
    """A configuration with the file's own grid of positions, and the size of prepared images.

    Positions are interpolated once, inside the model, whatever size was asked for.
    """
    prepared_size = config.image_size
    if image_size is None and own_size is not None and found.preprocessing is not None:
        prepared_size = found.preprocessing.image_size
    if found.grid is None:
        return config, prepared_size
    rule = resize_rule(found, config)
    if config.position_embedding == "learned" and rule != "aligned":  # which None stands for
        config = replace_fields(config, {"position_resize": rule})
    grid, patch_size = found.grid, config.patch_size
    table_size = tuple(n * side for n, side in zip(grid, patch_size, strict=True))
    return replace_fields(config, {"image_size": table_size}), prepared_size


def _first_kernel_fields(found, patch_size, in_channels):
    """`patch_size` and `in_channels` as far as they are given.

    Raises:
        ValueError: for a model whose first kernel is not that of patches of pixels.
    """
    if patch_size is not None:
        patch_size = pair(patch_size, "patch_size")
    given = {"patch_size": patch_size, "in_channels": in_channels}
    given = {name: value for name, value in given.items() if value is not None}
    fields = found.architecture.fields
    changed = [name for name, value in given.items() if value != fields.get(name)]
    if changed and found.architecture.family != "vit":
        raise ValueError(
            f"`{changed[0]}` can be chosen for Vision Transformers, whose first kernel is that of "
            f"the patches. Received: {given[changed[0]]!r} for a {found.architecture.family!r} "
            "model, whose kernels are standardised, so that no other kernel gives its numbers"
        )
    return given


def _config(source, family, fields, asked):
    """The configuration of a file's fields, some of which were asked for otherwise."""
    try:
        return family.config_class(**{**fields, **asked})
    except (ValueError, TypeError) as error:
        if asked and _can_be(family, fields):
            raise ValueError(f"{error}; asked for {asked} of {source}") from error
        raise CheckpointError(source, f"has an invalid model configuration: {error}") from error


def _can_be(family, fields):
    """Whether a file's fields describe a model, whatever the size of its images."""
    stride = family.stride(fields)
    size = tuple(side * stride for side in fields.get("patch_size", BIT_SIZE))
    try:
        family.config_class(**{**fields, "image_size": size})
    except (ValueError, TypeError):
        return False
    return True


def _image_size(source, found, image_size):
    """(height, width) that the model will have: the caller's, or the file's."""
    if image_size is not None:
        return pair(image_size, "image_size")
    fields = found.architecture.fields
    if "image_size" in fields:
        return fields["image_size"]
    family = FAMILIES[found.architecture.family]
    if not family.has_patches:
        if found.preprocessing is not None:
            return found.preprocessing.image_size
        return BIT_SIZE
    if fields.get("position_embedding") == "sincos2d":
        if found.preprocessing is not None:
            return found.preprocessing.image_size
        raise CheckpointError(
            source,
            "it has no array of positions; if it is of a model with sine-cosine positions, which "
            "have none, give `image_size=(height, width)`, which no other array tells",
        )
    if found.grid is None:
        raise CheckpointError(
            source,
            f"its {found.architecture.num_positions} positions are those of no square image; "
            "give `image_size=(height, width)`, unless its array 'cls' is missing",
        )
    return tuple(
        side * size * family.stride(fields)
        for side, size in zip(found.grid, fields["patch_size"], strict=True)
    )


def _assign(source, model, arrays, new_layers):
    """Gives every variable its array; nothing is assigned before all of them fit."""
    variables = {v.path: v for v in model.weights}
    problems = [
        f"- {path} {tuple(v.shape)} is missing"
        for path, v in variables.items()
        if path not in arrays and path.split("/")[0] not in new_layers
    ]
    problems += [
        f"+ {path} {array.shape} has no place in the model"
        for path, array in arrays.items()
        if path not in variables
    ]
    problems += [
        f"{path} has the shape {array.shape}, expected {tuple(variables[path].shape)}"
        for path, array in arrays.items()
        if path in variables and tuple(variables[path].shape) != array.shape
    ]
    if problems:
        raise CheckpointError(source, problems)
    # In the model's order: processes of JAX that share its variables must keep to the same one.
    for path in [path for path in variables if path in arrays]:
        variables[path].assign(memory.tensor(arrays.pop(path)))
