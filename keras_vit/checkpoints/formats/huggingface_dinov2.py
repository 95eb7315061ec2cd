"""`huggingface_dinov2`: DINOv2 of huggingface/transformers, with and without registers.

Symbols: as in `vit_jax`; G registers, H what the MLP's first layer gives (2 M where it is gated).
The `config.json` beside the file is part of the format.
"""

import math

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import huggingface, torch_rows

_BLOCK = "{model}{layers}.{i}"
_EMBEDDINGS = "{model}embeddings"
_OURS = "encoderblock_{i}"

# fmt: off
ROWS = (
    *torch_rows.conv("model", "embedding", _EMBEDDINGS + ".patch_embeddings.projection", "p q C D"),
    Row("model", "embedding/bias", _EMBEDDINGS + ".patch_embeddings.projection.bias", "D"),
    Row("mask", "mask/token", _EMBEDDINGS + ".mask_token", "1 D"),
    Row("class_token", "cls/token", _EMBEDDINGS + ".cls_token", "1 1 D"),
    Row("registers", "registers/tokens", _EMBEDDINGS + ".register_tokens", "1 G D"),
    Row("model", "posembed_input/embedding", _EMBEDDINGS + ".position_embeddings", "1 T D"),
    *torch_rows.norm("block", _OURS + "/norm_1", _BLOCK + ".norm1", "D"),
    *torch_rows.attention("block", _OURS + "/attention", _BLOCK + ".attention",
        ("{query}", "{key}", "{value}", "{out}"), "qkv_bias"),
    Row("layer_scale", _OURS + "/layer_scale_1/gamma", _BLOCK + ".layer_scale1.lambda1", "D"),
    *torch_rows.norm("block", _OURS + "/norm_2", _BLOCK + ".norm2", "D"),
    *torch_rows.dense("block", _OURS + "/mlp/dense_1", _BLOCK + ".mlp.{fc1}", "D", "H"),
    *torch_rows.dense("block", _OURS + "/mlp/dense_2", _BLOCK + ".mlp.{fc2}", "M", "D"),
    Row("layer_scale", _OURS + "/layer_scale_2/gamma", _BLOCK + ".layer_scale2.lambda1", "D"),
    *torch_rows.norm("model", "encoder_norm", "{model}layernorm", "D"),
    *torch_rows.dense("head", "head", "classifier", "F", "Y"),
)
# fmt: on

# A classifier has its model's name before the model's keys; which one depends on the registers.
_MODELS = {"model": "", "dinov2": "dinov2.", "registers": "dinov2_with_registers."}
_BLOCKS = {
    "": {
        "layers": "encoder.layer", "query": "attention.query", "key": "attention.key",
        "value": "attention.value", "out": "output.dense",
    },
    "v5": {
        "layers": "layers", "query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj",
    },
}  # fmt: skip
_MLPS = {"": {"fc1": "fc1", "fc2": "fc2"}, "swiglu": {"fc1": "weights_in", "fc2": "weights_out"}}
LAYOUTS = {
    "+".join(filter(None, (model, blocks, mlp))): {
        "model": _MODELS[model],
        **_BLOCKS[blocks],
        **_MLPS[mlp],
    }
    for blocks in _BLOCKS
    for mlp in _MLPS
    for model in _MODELS
}


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    config = view.facts
    depth = len(view.indices(view.layout["model"] + view.layout["layers"] + ".{}."))
    blocks = [f"{{model}}{{layers}}.{i}" for i in range(depth)]
    patches = "{model}embeddings.patch_embeddings.projection"
    kernel = view.shape(f"{patches}.weight")
    positions = view.shape("{model}embeddings.position_embeddings")
    hidden = view.vote(
        (f"{patches}.weight", 0),
        (f"{patches}.bias", 0),
        *((f"{b}.norm1.weight", 0) for b in blocks),
    )
    width = view.vote(*((f"{b}.mlp.{{fc1}}.bias", 0) for b in blocks))
    if kernel is None or not (depth and width):
        return None
    if len(kernel) != 4 or not hidden or not positions or len(positions) != 3:
        return (
            "too little is left to read the architecture off: the projection of patches "
            "(D, C, P, Q) or position_embeddings (1, T, D)"
        )
    gated = view.layout["fc1"] == "weights_in"
    heads = torch_rows.heads_of(config, "num_attention_heads", hidden, default=12)
    epsilon = torch_rows.epsilon_of(config, 1e-6)
    gelu = torch_rows.gelu_of(config, "hidden_act", huggingface.GELUS)
    for told in (heads, epsilon):
        if isinstance(told, str):
            return told
    if gelu is None:
        names = ", ".join(huggingface.GELUS)
        return f"`hidden_act` {config['hidden_act']!r:.100} is not one of {names}"
    registers = view.shape("{model}embeddings.register_tokens")
    scale = config.get("layerscale_value", 1.0)
    is_number = type(scale) in (int, float) and math.isfinite(scale)
    classes = view.vote(("classifier.bias", 0), ("classifier.weight", 0)) or 0
    fields = {
        "hidden_size": hidden, "mlp_dim": width // 2 if gated else width, "num_heads": heads,
        "depth": depth, "patch_size": kernel[2:], "in_channels": kernel[1], "class_token": True,
        "num_registers": registers[1] if registers and len(registers) == 3 else 0,
        "mask_token": view.shape("{model}embeddings.mask_token") is not None,
        "layer_scale": float(scale) if is_number else 1.0,
        "gated_mlp": gated,
        "qkv_bias": any(view.shape(f"{b}.attention.{{query}}.bias") is not None for b in blocks),
        "pooling": "token_patch_mean" if classes else "token", "representation_size": None,
        "num_classes": classes, "gelu": gelu, "layer_norm_epsilon": epsilon,
    }  # fmt: skip
    problems = _lies(config, fields, width)
    size = config.get("image_size")
    grid, rest = torch_rows.patches_of(size, kernel[2:], positions[1] - 1)
    if grid is None and size is not None:
        count = positions[1] - 1
        problems.append(f"config.json says `image_size` {size!r:.100}, not of {count} patches")
    if problems:
        return "; ".join(problems)
    return Architecture("vit", {**fields, **rest}, num_positions=positions[1], grid=grid)


def _lies(config, fields, width):
    shown = {
        "hidden_size": fields["hidden_size"],
        "num_hidden_layers": fields["depth"],
        "patch_size": tuple(fields["patch_size"]),
        "num_channels": fields["in_channels"],
        "qkv_bias": fields["qkv_bias"],
        "use_swiglu_ffn": fields["gated_mlp"],
        "num_register_tokens": fields["num_registers"],
    }
    if fields["num_classes"]:
        shown["num_labels"] = fields["num_classes"]
    problems = torch_rows.contradictions(config, shown)
    said = config.get("model_type", "dinov2")
    if said != _model_type(fields) and "model_type" in config:
        problems.append(f"config.json says `model_type` {said!r:.100}, not {_model_type(fields)!r}")
    ratio = config.get("mlp_ratio", 4)
    is_number = type(ratio) in (int, float) and 0 < ratio < 1000
    fits = fields["gated_mlp"] or (is_number and int(fields["hidden_size"] * ratio) == width)
    if config and not fits:
        problems.append(f"config.json says `mlp_ratio` {ratio!r:.100}, the arrays {width}")
    return problems


def _model_type(fields):
    return "dinov2_with_registers" if fields["num_registers"] else "dinov2"


def unsupported(architecture):
    """What transformers could not load, or would compute differently."""
    fields = architecture.fields
    expected = {
        "position_embedding": "learned",
        "class_token": True,
        "pooling": "token_patch_mean" if fields["num_classes"] else "token",
        "representation_size": None,
        "register_positions": False,
        "use_head_bias": True,
    }
    reasons = torch_rows.differences(architecture, expected)
    if fields.get("layer_scale") is None:
        reasons.append("a model without LayerScale")
    hidden, mlp_dim = fields["hidden_size"], fields["mlp_dim"]
    if fields.get("gated_mlp") and mlp_dim not in _gated_widths(hidden):
        reasons.append(f"a gated MLP of width {mlp_dim}")
    if not fields.get("gated_mlp") and mlp_dim % hidden:
        reasons.append(f"`mlp_dim` {mlp_dim}, which is no multiple of {hidden}")
    return reasons


def _gated_widths(hidden):
    """Width of a gated MLP -> its `mlp_ratio`: two thirds, rounded up to a multiple of 8."""
    return {(int(hidden * r * 2 / 3) + 7) // 8 * 8: r for r in range(64, 0, -1)}


def resize_rule(architecture, _layout):
    """transformers smooths the positions of models with registers, and only theirs."""
    return "bicubic_antialias" if architecture.fields["num_registers"] else "bicubic"


def layout_for(_name, architecture, came_in=None):
    """The layout of a model: keys of classifiers carry the model's name."""
    fields = architecture.fields
    parts = set((came_in or "").split("+"))
    model = "registers" if fields["num_registers"] else "dinov2"
    if not fields["num_classes"]:
        model = "model"
    mlp = "swiglu" if fields["gated_mlp"] else ""
    return "+".join(filter(None, (model, "v5" if "v5" in parts else "", mlp)))


def side_files(architecture, _layout, about):
    """The `config.json` with which transformers makes the model, and that of its pixels."""
    fields = architecture.fields
    hidden = fields["hidden_size"]
    task = "ForImageClassification" if fields["num_classes"] else "Model"
    gated = fields["gated_mlp"]
    last = f"stage{fields['depth']}"
    config = {
        "architectures": [f"Dinov2{'WithRegisters' if fields['num_registers'] else ''}{task}"],
        "model_type": _model_type(fields),
        "hidden_size": hidden,
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
        "mlp_ratio": _gated_widths(hidden)[fields["mlp_dim"]]
        if gated
        else fields["mlp_dim"] // hidden,
        "use_swiglu_ffn": gated,
        "hidden_act": huggingface.name_of_gelu(fields["gelu"]),
        "hidden_dropout_prob": fields["dropout"],
        "attention_probs_dropout_prob": fields["attention_dropout"],
        "drop_path_rate": fields["stochastic_depth"],
        "layer_norm_eps": fields["layer_norm_epsilon"],
        "layerscale_value": fields["layer_scale"],
        "image_size": huggingface.one_if_equal(fields["image_size"]),
        "patch_size": huggingface.one_if_equal(fields["patch_size"]),
        "num_channels": fields["in_channels"],
        "qkv_bias": fields["qkv_bias"],
        "out_features": [last],
        **huggingface.class_labels(fields["num_classes"], about.class_names),
    }
    if fields["num_registers"]:
        config["num_register_tokens"] = fields["num_registers"]
    else:
        config["use_mask_token"] = fields["mask_token"]
    return {"config.json": config, **huggingface.pixels(architecture, about)}


_SCALED = tuple(
    (f"{model}embeddings.patch_embeddings.projection.weight", f"{model}{layers}.{scale}.lambda1")
    for model in _MODELS.values()
    for layers in ("encoder.layer", "layers")
    for scale in ("0.layer_scale1",)
)

HUGGINGFACE_DINOV2 = Format(
    name="huggingface_dinov2",
    families=("vit",),
    signatures=tuple(map(Signature, _SCALED)),
    prefixes=torch_rows.WRAPPERS,
    keeps_prefix=True,
    layouts=LAYOUTS,
    rows=ROWS,
    dropped=(),
    architecture=read_architecture,
    scopes=torch_rows.scopes(ROWS),
    unsupported=unsupported,
    side_files=side_files,
    about=huggingface.read_about,
    layout_for=layout_for,
    folder_file="model.safetensors",
    resize_rule=resize_rule,
    optional_parts=(
        *("layer_scale", "num_registers", "mask_token", "qkv_bias", "gated_mlp"),
        "partial_patches",
    ),
)
