"""LoRA adapters as files of their own, in PEFT's names and for Hugging Face's modules.

A key is that of the kernel in `transformers`, as the table of the first of `_FORMATS` has it that
can hold the model, with `base_model.model.` before it and `lora_A` (R, I) or `lora_B` (O, R)
behind.  A model that none of them can hold, one with mean pooling for example, has the names of its
own layers there: only this package reads such a file.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping

from absl import logging
from keras import ops

from keras_vit.checkpoints import matching
from keras_vit.checkpoints.containers import files
from keras_vit.checkpoints.formats.huggingface import HUGGINGFACE
from keras_vit.checkpoints.formats.huggingface_dinov2 import HUGGINGFACE_DINOV2
from keras_vit.errors import CheckpointError
from keras_vit.files import check_not_empty_path
from keras_vit.layers import lora
from keras_vit.layers.trainable import freeze_all_but
from keras_vit.models.classifier import ImageClassifier
from keras_vit.models.pixel_model import network_of
from keras_vit.untrusted import check_number
from keras_vit.zoo.saving import describe

ARRAYS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_FORMATS = (HUGGINGFACE, HUGGINGFACE_DINOV2)
# What transformers 4 and 5 call the modules of a ViT, as parts of the formats' layouts.
_SPELLINGS = {4: (), 5: ("v5",)}
# What a configuration may not have, because the numbers would be others.
_REFUSED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "rank_pattern"),
    *("alpha_pattern", "layer_replication", "alora_invocation_tokens", "target_parameters"),
    *("trainable_token_indices", "kasa_config", "monteclora_config", "arrow_config"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """The files of an adapter.

    Attributes:
        arrays: PEFT's key -> array.
        config: What `adapter_config.json` holds.
    """

    arrays: Mapping
    config: Mapping

    def write(self, folder):
        """Writes both files into a folder, which is made if needed."""
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(folder, f"cannot be made: {error.strerror}") from error
        files.write(folder / ARRAYS, self.arrays, {CONFIG: self.config})


def save_adapter(model, folder, *, transformers=4, base=None):
    """Writes what LoRA has learned, and the head, as PEFT reads it.

    `peft.PeftModel.from_pretrained(base, folder)` gives the same model, with `base` a
    `transformers.ViTForImageClassification` of the same weights
    (`keras_vit.save_pretrained(..., format="huggingface")` of the model before the training), or a
    `Dinov2ForImageClassification` (`format="huggingface_dinov2"`).

    Args:
        model: A model with adapters (`keras_vit.training.tuning.set_tune(model, "lora:8")`).
        folder: For `adapter_model.safetensors` and `adapter_config.json`.
        transformers: 4 or 5: the major version whose module names are written.  None: the names of
            the model's own layers, for one that no ViT of transformers can be.
        base: What PEFT calls the base model by, a folder or a hub's name, or None.

    Returns:
        The folder, a `pathlib.Path`.

    Raises:
        ValueError: For a model without adapters.
        CheckpointError: If the model has parts that a ViT of transformers lacks (and `transformers`
            is not None), or the files cannot be written.
    """
    check_not_empty_path(folder, "`folder`")
    adapter = _adapter(_network(model), transformers, base)
    adapter.write(folder)
    return pathlib.Path(folder)


def adapter_of(model):
    """The `Adapter` of a model for a run's folder; None without LoRA."""
    network = network_of(model)
    if not lora.adapters_of(network) or not isinstance(network, ImageClassifier):
        return None
    architecture = describe(network.config)
    reasons = _format_and_reasons(architecture)[1]
    if reasons:
        logging.info("%s is for keras_vit only: PEFT has no %s", ARRAYS, ", ".join(reasons))
        return _adapter(network, None, None)
    origin = network.origin or {}
    return _adapter(network, 5 if "v5" in origin.get("layout", "") else 4, None)


def _adapter(network, transformers, base):
    pairs = lora.adapters_of(network)
    if not pairs:
        raise ValueError(
            f"a model must have LoRA adapters. Received: {network.name!r} without; see "
            "`keras_vit.training.tuning.set_tune`, and save before `merge_lora`"
        )
    keys = _keys(network, transformers)
    arrays, modules = {}, []
    for kernel, adapter in pairs:
        module = _module(keys[kernel.path])
        modules.append(module.removeprefix(_PREFIX))
        for part, matrix in (("A", adapter.a), ("B", adapter.b)):
            array = ops.convert_to_numpy(matrix).astype("float32").T
            arrays[f"{module}.lora_{part}.weight"] = array.copy()
    head = _head(network, keys)
    for variable, key in head:
        array = ops.convert_to_numpy(variable).astype("float32")
        arrays[_PREFIX + key] = array.T.copy()
    first = pairs[0][1]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "target_modules": modules,
        "modules_to_save": sorted({key.rpartition(".")[0] for _, key in head}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
    }
    return Adapter(arrays=arrays, config=config)


def load_adapter(model, folder):
    """Gives a model the adapters of a folder: LoRA's matrices, and the head where it holds one.

    Afterwards the model is as after `set_tune(model, "lora:R")` and a training: the adapters and
    the head are trained on, all else is frozen.  `keras_vit.training.tuning.merge_lora(model)`
    makes an ordinary model of it.

    Args:
        model: A model of this package without adapters, with the weights that the adapter was
            trained on and, where the folder holds one, a head for as many classes.
        folder: As PEFT or `save_adapter` writes it; of modules of transformers 4 or 5, or of this
            package's layers.

    Returns:
        The model.

    Raises:
        CheckpointError: If a file cannot be read, is of another model or another kind of adapter;
            lists all differences, and leaves the model as it was.
        ValueError: For a model that has adapters.
    """
    check_not_empty_path(folder, "`folder`")
    folder, network = pathlib.Path(folder), _network(model)
    if lora.adapters_of(network):
        raise ValueError(
            f"a model must have no adapters. Received: {network.name!r} with some; call "
            "`merge_lora` first, or load the base again"
        )
    container = files.open_container(folder / ARRAYS)
    config = _checked_config(folder / CONFIG)
    keys = _keys(network, _version_of(container.shapes))
    head = {_PREFIX + key: variable for variable, key in _head(network, keys)}
    ranks = _ranks(network, keys, container.shapes)
    problems = _differences(network, keys, head, ranks, container.shapes)
    if any(rank != config["r"] for rank in ranks.values()):
        problems.append(f"{CONFIG} says rank {config['r']}, the arrays have {set(ranks.values())}")
    if problems or not ranks:
        raise CheckpointError(folder / ARRAYS, problems or "holds no adapters")
    arrays = container.read(list(container.shapes))
    lora.add_lora(network, ranks, config["alpha"], config["dropout"])
    for kernel, adapter in lora.adapters_of(network):
        module = _module(keys[kernel.path])
        adapter.a.assign(arrays[f"{module}.lora_A.weight"].T)
        adapter.b.assign(arrays[f"{module}.lora_B.weight"].T)
    for key, variable in head.items():
        if key in arrays:
            variable.assign(arrays[key].T)
    heads = {variable.path for variable in head.values()}
    freeze_all_but(network, heads.__contains__)
    return model


def _version_of(shapes):
    """The major version of transformers whose module names a file has; None for our own."""
    if any(key.startswith(_PREFIX + "encoderblock_") for key in shapes):
        return None
    return 5 if any("_proj." in key or ".layers." in key for key in shapes) else 4


def _module(key):
    """PEFT's name of the module of a key of transformers."""
    return _PREFIX + key.removesuffix(".weight")


def _sizes(network):
    """Path of an adaptable kernel -> (I, O)."""
    return {
        getattr(layer, name).path: layer.adaptable_shape
        for layer in lora.adaptable_layers(network)
        for name in layer.adaptable
    }


def _ranks(network, keys, shapes):
    """Path of a kernel -> the rank of its adapter in the file."""
    names = {f"{_module(keys[p])}.lora_A.weight": p for p in _sizes(network) if p in keys}
    return {names[k]: shape[0] for k, shape in shapes.items() if k in names and len(shape) == 2}


def _differences(network, keys, head, ranks, shapes):
    """Sentences on what a file has other than a model needs."""
    expected = {key: tuple(variable.shape)[::-1] for key, variable in head.items()}
    if not any(key in shapes for key in head):
        expected = {}  # the model keeps its own
    sizes = _sizes(network)
    for path, rank in ranks.items():
        inputs, outputs = sizes[path]
        expected[f"{_module(keys[path])}.lora_A.weight"] = (rank, inputs)
        expected[f"{_module(keys[path])}.lora_B.weight"] = (outputs, rank)
    problems = [f"- {k} {s} is missing" for k, s in expected.items() if k not in shapes]
    problems += [
        f"+ {k} {s} has no place in the model" for k, s in shapes.items() if k not in expected
    ]
    return problems + [
        f"{k} has the shape {shapes[k]}, expected {s}"
        for k, s in expected.items()
        if k in shapes and shapes[k] != s
    ]


def _network(model):
    network = network_of(model)
    if not isinstance(network, ImageClassifier):
        raise TypeError(f"`model` must be a model of keras_vit. Received: {type(network).__name__}")
    return network


def _format_and_reasons(architecture):
    """The first of `_FORMATS` whose modules a model has, else the first and why it is not that."""
    able = (f for f in _FORMATS if not f.cannot_hold(architecture))
    format_ = next(able, HUGGINGFACE)
    reasons = format_.cannot_hold(architecture)
    if architecture.fields.get("gated_mlp"):  # one kernel of ours is two in transformers 5
        reasons = reasons or ["a gated MLP"]
    return format_, reasons


def _keys(network, transformers):
    """Variable path -> key of transformers, or our own."""
    if transformers is None:
        return {variable.path: _own_key(variable.path) for variable in network.weights}
    if transformers not in _SPELLINGS:
        raise ValueError(f"`transformers` must be 4, 5 or None. Received: {transformers!r}")
    architecture = describe(network.config)
    format_, reasons = _format_and_reasons(architecture)
    if reasons:
        raise CheckpointError(ARRAYS, [f"PEFT's models cannot hold {reason}" for reason in reasons])
    # The first of its family's layouts, in the names of that version.
    layout = "+".join((format_.layout_for(None, architecture), *_SPELLINGS[transformers]))
    prefix, entries = matching.written_entries(pathlib.Path(ARRAYS), format_, architecture, layout)
    keys = {entry.ours: prefix + entry.theirs for entry in entries}
    if format_ is HUGGINGFACE_DINOV2:  # whose blocks stay there in the models of transformers 5
        keys = {path: key.replace(".layers.", ".encoder.layer.") for path, key in keys.items()}
    return keys


def _own_key(path):
    """A variable's path as a module's name.

    >>> _own_key("encoderblock_0/attention/query_kernel"), _own_key("head/bias")
    ('encoderblock_0.attention.query.weight', 'head.bias')
    """
    path = path.removesuffix("kernel") + "weight" if path.endswith("kernel") else path
    return path.replace("/", ".").replace("_weight", ".weight")


def _head(network, keys):
    """`(variable, key)` of the heads."""
    return [
        (v, keys[v.path]) for v in network.weights if v.path.startswith(("head/", "head_dist/"))
    ]


def _checked_config(path):
    """Rank, alpha and dropout of an `adapter_config.json`."""
    config = files.read_json(path)
    problems = [
        f"`{name}` {config[name]!r:.60} is another kind of adapter"
        for name in _REFUSED
        if config.get(name)
    ]
    if config.get("bias", "none") != "none":
        problems.append(f"`bias` {config['bias']!r:.60} trains the base's biases too")
    if config.get("peft_type") != "LORA":
        problems.append(f"`peft_type` {config.get('peft_type')!r:.60} is not LORA")
    numbers = {"r": (1, 65535), "lora_alpha": (1e-9, 1e9), "lora_dropout": (0, 0.999)}
    for name, (low, high) in numbers.items():
        try:
            numbers[name] = check_number(config.get(name, 0), f"`{name}`", low=low, high=high)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(path, problems)
    alpha, rate = numbers["lora_alpha"], numbers["lora_dropout"]
    # Rank-stabilised LoRA (arXiv:2312.03732) divides by the root of the rank.
    alpha = alpha * math.sqrt(config["r"]) if config.get("use_rslora") else alpha
    return {"r": config["r"], "alpha": alpha, "dropout": rate}
