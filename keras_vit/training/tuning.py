"""What a fine-tuning trains, and how fast each depth of a model moves."""

import re
import types

from keras_vit.layers.lora import add_lora, merge_lora
from keras_vit.layers.trainable import freeze_all_but, get_quantized, set_trainable
from keras_vit.models.depth import Depths
from keras_vit.models.pixel_model import network_of
from keras_vit.training.recipe_values import LORA_TARGETS, check_tune, parse_tune

__all__ = ["merge_lora", "rate_factors", "set_tune"]

_ATTENTION = r"encoderblock_\d+/(?:\w+/)?attention/"
_TARGETS = {
    "query": _ATTENTION + "query_kernel",
    "key": _ATTENTION + "key_kernel",
    "value": _ATTENTION + "value_kernel",
    "output": _ATTENTION + "out_kernel",
    "mlp": r"encoderblock_\d+/(?:\w+/)?mlp/dense_[12]/kernel",
}


def set_tune(model, tune, *, lora_alpha=None, lora_dropout=None, lora_targets=None):
    """Says which variables of a model are trained; all others are frozen.

    | `tune` | what is trained |
    |---|---|
    | `"all"` | everything |
    | `"head"` | the head |
    | `"last:N"` | the last N encoder blocks (of a BiT-ResNet, stages) and everything behind them |
    | `"norms"` | scales and shifts of all norms, and the head |
    | `"bias"` | all biases, those of norms among them, and the head (BitFit, arXiv:2106.10199) |
    | `"lora:R"` | low-rank adapters of rank R, and the head (LoRA, arXiv:2106.09685) |

    Of a quantised model (`model.quantize("int8")`) adapters are trained, and the head if it was
    left out of that; nothing else of a quantised layer is.

    Call it before `compile`.  `get_config` and with it a `.keras` file keep what is frozen.  A
    model with adapters is saved as an ordinary one, with what they have learned in its kernels;
    `merge_lora(model)` does that to the model itself, and
    `keras_vit.zoo.adapters.save_adapter(model, folder)` writes the adapters alone.

    Args:
        model: A model of this package, or one that is built upon one; layers that are not this
            package's count as heads.
        tune: One of these, or a function of a variable's path ("encoderblock_0/mlp/dense_1/bias")
            that says whether it is trained.
        lora_alpha: The product of an adapter's matrices is multiplied by alpha / R; None takes R.
        lora_dropout: Rate on what goes into the adapters in training, in [0, 1); None is 0.
        lora_targets: Which kernels have an adapter, of `"query"`, `"key"`, `"value"`, `"output"`
            and `"mlp"`; None takes all.

    Raises:
        ValueError: For anything else, more blocks than the model has, LoRA for a model without
            encoder blocks or with adapters, or where nothing would be trained.
    """
    kind, number = ("paths", None) if callable(tune) else parse_tune(tune)
    options = {"lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "lora_targets": lora_targets}
    check_tune(types.SimpleNamespace(tune=tune, **options))
    network = network_of(model)
    if kind == "all":
        set_trainable(network, {})
        return
    depths = None if kind == "paths" else Depths.of(network)
    is_trained = tune if kind == "paths" else _rule(kind, number, depths, network, tune)
    if kind == "lora":
        _add_lora(network, depths, number, options)
    elif not any(is_trained(variable.path) for variable in network.trainable_variables):
        raise ValueError(f"`tune` must leave something to train. Received: {tune!r}")
    quantized = tuple(f"{path}/" for path in get_quantized(network))
    freeze_all_but(network, lambda path: not path.startswith(quantized) and is_trained(path))


def _rule(kind, number, depths, network, tune):
    """A function of a variable's path: whether it is trained."""
    if kind == "last" and number > depths.num_blocks:
        parts = "encoder blocks" if depths.is_transformer else "stages"
        raise ValueError(
            f"`tune` must be of at most the {depths.num_blocks} {parts} of {network.name!r}. "
            f"Received: {tune!r}"
        )
    return {
        "head": depths.is_head,
        "last": lambda path: depths.depth(path) > depths.num_blocks - number,
        "norms": lambda path: (
            depths.is_head(path)
            or (path.endswith(("/gamma", "/beta")) and "/layer_scale_" not in path)
        ),
        "bias": lambda path: depths.is_head(path) or path.endswith(("bias", "/beta")),
        "lora": depths.is_head,
    }[kind]


def _add_lora(network, depths, rank, options):
    if not depths.is_transformer:
        raise ValueError(
            "LoRA adapts the attention and the MLPs of encoder blocks. Received: "
            f"{network.name!r}, which has none; take `tune='last:1'`, 'norms' or 'head'"
        )
    targets = (_TARGETS[name] for name in options["lora_targets"] or LORA_TARGETS)
    pattern = re.compile("|".join(targets))
    kernels = [v.path for v in network.weights if pattern.fullmatch(v.path)]
    alpha = rank if options["lora_alpha"] is None else options["lora_alpha"]
    add_lora(network, dict.fromkeys(kernels, rank), alpha, options["lora_dropout"] or 0.0)


def set_tune_of(model, recipe):
    """`set_tune` with the fields of a recipe; one without `tune` leaves the model as it is."""
    if recipe.tune is None:
        return
    names = ("tune", "lora_alpha", "lora_dropout", "lora_targets")
    set_tune(model, **{name: getattr(recipe, name) for name in names})


def rate_factors(model, layer_decay=None, head_rate_factor=None):
    """What the learning rate of each trained variable is multiplied by.

        factor = layer_decay^(L + 1 - i)

    with L the number of blocks and i the variable's depth: 0 for patches, tokens and positions (and
    the ResNet of a hybrid), i for block i counted from 1, L + 1 for everything behind the blocks.
    This is the layer-wise decay of BEiT (arXiv:2106.08254), MAE and ViTDet.

    Args:
        model: As for `set_tune`; of a BiT-ResNet, blocks are stages.
        layer_decay: In [0, 1]; None and 1 give each depth the whole rate.
        head_rate_factor: The head's factor, at least 0; None is 1.

    Returns:
        A dict from path to factor, of `keras_vit.training.optimizers`' `rate_factors`; None where
        all factors are 1.

    Raises:
        ValueError: For a model without blocks, or a number out of range.
    """
    layer_decay = 1.0 if layer_decay is None else layer_decay
    head_rate_factor = 1.0 if head_rate_factor is None else head_rate_factor
    if not 0 <= layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be in [0, 1]. Received: {layer_decay!r}")
    if not head_rate_factor >= 0:
        raise ValueError(f"`head_rate_factor` must be at least 0. Received: {head_rate_factor!r}")
    if layer_decay == head_rate_factor == 1:
        return None
    depths = Depths.of(network_of(model))
    paths = [variable.path for variable in model.trainable_variables]
    return {
        path: float(
            layer_decay ** (depths.num_blocks + 1 - depths.depth(path))
            * (head_rate_factor if depths.is_head(path) else 1.0)
        )
        for path in paths
    }


def check_kind(kind, recipe):
    """Raises ValueError for a pre-training with what only a fine-tuning has."""
    for field in ("tune", "layer_decay", "head_rate_factor") if kind == "pretrain" else ():
        if getattr(recipe, field) is not None:
            raise ValueError(
                f"`{field}` is of a fine-tuning, which starts from a trained model. Received: "
                f"{getattr(recipe, field)!r} in a pre-training; use `finetune`"
            )
