"""`timm`: ViT, ViT hybrids and BiT-ResNetV2 of huggingface/pytorch-image-models.

Symbols: as in `vit_jax`; b0 u0 a unit's indices from zero.  The number of heads is in no array:
`model_args` of a `config.json` beside the file tells it, else it is the published one.
"""

import math

from keras_vit.checkpoints import big_vision, pixels, torch_rows
from keras_vit.checkpoints.tables import About, Architecture, Format, Row, Signature

# Widths of the published models whose heads do not have 64 features each -> heads.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16}
GELUS = {"gelu": "exact", "gelu_tanh": "tanh"}
# Arguments of timm's models that the arrays show anyway, or that change nothing that is computed.
KNOWN_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "class_token", "no_embed_class", "representation_size", "act_layer"),
    *("global_pool", "fc_norm", "drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "weight_init", "layers", "width_factor", "stem_chs", "dynamic_img_size"),
}
# (stages, width factor) -> the model of that ResNet; other stages cannot be asked for by arguments.
HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
BITS = {
    (3, 4, 6, 3): "resnetv2_50",
    (3, 4, 23, 3): "resnetv2_101",
    (3, 8, 36, 3): "resnetv2_152",
}

_BLOCK = "blocks.{i}"
_BACKBONE = "patch_embed.backbone."
_UNIT = "stages.{b0}.blocks.{u0}"

# fmt: off
ROWS = (
    *torch_rows.hybrid_rows(_BACKBONE + "{stem}conv", _BACKBONE + "{stem}norm", _BACKBONE + _UNIT),
    *torch_rows.conv("model", "embedding", "patch_embed.proj", "p q C D"),
    Row("model", "embedding/bias", "patch_embed.proj.bias", "D"),
    Row("class_token", "cls/token", "cls_token", "1 1 D"),
    Row("model", "posembed_input/embedding", "pos_embed", "1 {rows} D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_1", _BLOCK + ".norm1", "D"),
    *(
        row
        for part, name in enumerate(("query", "key", "value"))
        for row in (
            Row("block", f"encoderblock_{{i}}/attention/{name}_kernel", _BLOCK + ".attn.qkv.weight",
                "D k d", f"{part}@3*k*d D"),
            Row("block", f"encoderblock_{{i}}/attention/{name}_bias", _BLOCK + ".attn.qkv.bias",
                "k d", f"{part}@3*k*d"),
        )
    ),
    Row("block", "encoderblock_{i}/attention/out_kernel", _BLOCK + ".attn.proj.weight",
        "k d D", "D k*d"),
    Row("block", "encoderblock_{i}/attention/out_bias", _BLOCK + ".attn.proj.bias", "D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_2", _BLOCK + ".norm2", "D"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_1", _BLOCK + ".mlp.fc1", "D", "M"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_2", _BLOCK + ".mlp.fc2", "M", "D"),
    *torch_rows.norm("model", "encoder_norm", "norm", "D"),
    *torch_rows.dense("representation", "pre_logits", "pre_logits.fc", "D", "R"),
    *torch_rows.dense("head", "head", "head", "F", "Y"),
    *torch_rows.bit_rows("stem.conv", _UNIT, "norm"),
    Row("bit_head", "head/kernel", "head.fc.weight", "F Y", "Y F 1 1"),
    Row("bit_head", "head/bias", "head.fc.bias", "Y"),
)
# fmt: on

LAYOUTS = {
    "today": {"rows": "T"},
    # `no_embed_class`: positions for the patches alone.
    "patch_positions": {"rows": "N"},
}


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    arguments = view.facts.get("model_args", {})
    if not isinstance(arguments, dict):
        return "the `model_args` in config.json are no object"
    unknown = sorted(set(arguments) - KNOWN_ARGUMENTS)
    if unknown:
        return f"config.json has `model_args` that are not known here: {', '.join(unknown)}"
    if view.shape("stem.conv.weight") is not None:
        return _read_bit(view)
    return _read_vit(view, arguments)


def _read_bit(view):
    fields = torch_rows.resnet_fields(
        view, "stem.conv", "stages.{}.", "blocks.{}.", torch_rows.BIT_NUMBERS
    )
    if isinstance(fields, str):
        return fields
    if not fields["stage_depths"]:
        return "the stages are missing altogether"
    classes = view.vote(("head.fc.bias", 0), ("head.fc.weight", 0)) or 0
    return Architecture("bit", {**fields, "num_classes": classes})


def _read_vit(view, arguments):
    depth = len(view.indices("blocks.{}."))
    blocks = [f"blocks.{i}" for i in range(depth)]
    ends = (("patch_embed.proj.weight", 0), ("patch_embed.proj.bias", 0), ("norm.weight", 0))
    hidden = view.vote(*ends, *((f"{b}.norm1.weight", 0) for b in blocks))
    mlp_dim = view.vote(*((f"{b}.mlp.fc1.bias", 0) for b in blocks))
    kernel, positions = view.shape("patch_embed.proj.weight"), view.shape("pos_embed")
    shapes = kernel is not None and len(kernel) == 4 and positions and len(positions) == 3
    if not (depth and hidden and mlp_dim and shapes):
        return (
            "too little is left to read the architecture off: blocks, patch_embed.proj.weight "
            "(D, C, P, Q) or pos_embed (1, T, D)"
        )
    heads = arguments.get("num_heads", HEADS.get(hidden, hidden // 64))
    if type(heads) is not int or heads < 1 or hidden % heads:
        return (
            f"no array tells the number of heads, and {heads!r} does not divide {hidden}; put it "
            'into a config.json beside the file: {"model_args": {"num_heads": ...}}'
        )
    gelu = torch_rows.gelu_of(arguments, "act_layer", GELUS)
    if gelu is None:
        return f"`act_layer` {arguments['act_layer']!r} is not one of {', '.join(GELUS)}"
    class_token = view.shape("cls_token") is not None
    pooling = "token" if class_token else "avg"
    if arguments.get("global_pool", pooling) != pooling:
        return f"`global_pool` {arguments['global_pool']!r} leaves the class token out of the mean"
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "num_heads": heads, "depth": depth,
        "patch_size": kernel[2:], "in_channels": kernel[1], "class_token": class_token,
        "pooling": "token" if class_token else "mean",
        "representation_size": view.vote(("pre_logits.fc.bias", 0), ("pre_logits.fc.weight", 0)),
        "num_classes": view.vote(("head.bias", 0), ("head.weight", 0)) or 0,
        "gelu": gelu, "layer_norm_epsilon": 1e-6,
    }  # fmt: skip
    family, stride = "vit", 1
    stems = [_BACKBONE + stem for stem in ("stem.conv", "conv")]
    stem_conv = next((stem for stem in stems if view.shape(f"{stem}.weight") is not None), None)
    if stem_conv is not None:
        resnet = torch_rows.resnet_fields(
            view, stem_conv, _BACKBONE + "stages.{}.", "blocks.{}.", torch_rows.HYBRID_NUMBERS
        )
        if isinstance(resnet, str):
            return resnet
        fields, family = {**fields, **resnet}, "hybrid"
        stride = 4 * 2 ** max(len(resnet["stage_depths"]) - 1, 0)
    rows, cell = positions[1], [side * stride for side in fields["patch_size"]]
    all_tokens = not class_token or not _patches_alone(rows, cell, arguments)
    if all_tokens != (view.layout["rows"] == "T"):
        return None
    patches = rows - (class_token and all_tokens)
    grid = torch_rows.grid_of(arguments.get("img_size"), cell, patches)
    return Architecture(family, fields, num_positions=patches + class_token, grid=grid)


def _patches_alone(rows, cell, arguments):
    """Whether positions of a model with a class token have no row for it."""
    if "no_embed_class" in arguments:
        return arguments["no_embed_class"] is True
    if torch_rows.grid_of(arguments.get("img_size"), cell, rows - 1):
        return False
    # A square number is never one more than another.
    return rows == math.isqrt(rows) ** 2


def unsupported(architecture):
    """What timm could not load, or would compute differently."""
    if architecture.family == "bit":
        return torch_rows.differences(architecture, torch_rows.BIT_NUMBERS)
    fields = architecture.fields
    expected = {
        "position_embedding": "learned",
        "pooling": "token" if fields["class_token"] else "mean",
        "layer_norm_epsilon": 1e-6,
    }
    if architecture.family == "hybrid":
        expected |= {**torch_rows.HYBRID_NUMBERS, "stage_depths": tuple(HYBRIDS)}
    return torch_rows.differences(architecture, expected)


def side_files(architecture, layout, about):
    """The `config.json` with which timm makes the model, and its pixels and classes."""
    config = _model_config(architecture, layout)
    if about.preprocessing is not None:
        channels = architecture.fields["in_channels"]
        config["pretrained_cfg"] = pixels.to_timm(about.preprocessing, channels)
    if about.class_names is not None:
        config["label_names"] = list(about.class_names)
    return {"config.json": config}


def read_about(facts, architecture):
    """Class names and pixels, where `config.json` tells them.

    Raises:
        ValueError: if the names are not those of the head's classes.
    """
    names, num_classes = facts.get("label_names"), architecture.fields["num_classes"]
    if isinstance(names, list) and num_classes and len(names) != num_classes:
        raise ValueError(
            f"`label_names` in config.json must name each of the {num_classes} classes of the "
            f"head. Received: {len(names)} names"
        )
    config = facts.get("pretrained_cfg")
    return About(
        class_names=tuple(map(str, names)) if isinstance(names, list) and num_classes else None,
        preprocessing=pixels.from_timm(config) if isinstance(config, dict) else None,
    )


def _model_config(architecture, layout):
    fields = architecture.fields
    if architecture.family == "bit":
        name, width = BITS.get(tuple(fields["stage_depths"])), fields["width_factor"]
        named = {"architecture": f"{name}x{int(width)}_bit"} if name and width == int(width) else {}
        return {**named, "num_classes": fields["num_classes"]}
    arguments = {
        "img_size": list(fields["image_size"]),
        "patch_size": fields["patch_size"][0],
        "in_chans": fields["in_channels"],
        "embed_dim": fields["hidden_size"],
        "depth": fields["depth"],
        "num_heads": fields["num_heads"],
        "mlp_ratio": fields["mlp_dim"] / fields["hidden_size"],
        "act_layer": next(name for name, gelu in GELUS.items() if gelu == fields["gelu"]),
    }
    if not fields["class_token"]:
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if layout["rows"] == "N":
        arguments["no_embed_class"] = True
    name = "vit_base_patch16_224"
    if architecture.family == "hybrid":
        name = HYBRIDS[tuple(fields["stage_depths"])]
    return {"architecture": name, "num_classes": fields["num_classes"], "model_args": arguments}


TIMM = Format(
    name="timm",
    families=("vit", "hybrid", "bit"),
    signatures=(
        Signature(("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")),
        Signature(("stem.conv.weight", "stages.0.blocks.0.conv1.weight")),
    ),
    prefixes=("",),
    layouts=LAYOUTS,
    rows=ROWS,
    dropped=(),
    architecture=read_architecture,
    scopes=torch_rows.scopes(ROWS),
    unsupported=unsupported,
    to_model=big_vision.to_model,
    to_table=big_vision.to_table,
    side_files=side_files,
    about=read_about,
    folder_file="model.safetensors",
)
