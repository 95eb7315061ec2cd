"""`timm`: ViT, ViT hybrids and BiT-ResNetV2 of huggingface/pytorch-image-models.

Symbols: as in `vit_jax`; b0 u0 a unit's indices from zero.  Heads, GELU, epsilon and pooling are in
no array: the `config.json` beside the file tells them (`timm_arguments`), else they are assumed,
and the caller is told so.
"""

import dataclasses
import math

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import big_vision, timm_arguments, timm_config, torch_rows

# Widths of the published models whose heads do not have 64 features each -> heads.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16}
# The usual `init_values`, where a file has the scales and no config.json tells how they started.
LAYER_SCALE = 1e-5
# Their key of the last norm -> where it is.
NORMS = {"norm": "tokens", "fc_norm": "pooled"}
_BLOCK = "blocks.{i}"
_ATTENTION = "encoderblock_{i}/attention"
_BACKBONE = "patch_embed.backbone."
_UNIT = "stages.{b0}.blocks.{u0}"

# fmt: off
ROWS = (
    *torch_rows.hybrid_rows(_BACKBONE + "{stem}conv", _BACKBONE + "{stem}norm", _BACKBONE + _UNIT),
    *torch_rows.conv("model", "embedding", "patch_embed.proj", "p q C D"),
    Row("patch_bias", "embedding/bias", "patch_embed.proj.bias", "D"),
    Row("{mask}", "mask/token", "mask_token", "1 D"),
    Row("class_token", "cls/token", "cls_token", "1 1 D"),
    Row("distillation", "dist/token", "dist_token", "1 1 D"),
    Row("registers", "registers/tokens", "{registers}", "1 G D"),
    Row("model", "posembed_input/embedding", "pos_embed", "1 {rows} D"),
    *torch_rows.norm("pre_norm", "pre_norm", "norm_pre", "D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_1", _BLOCK + ".norm1", "D"),
    *torch_rows.fused_attention("block", _ATTENTION, _BLOCK + ".attn.qkv.weight",
        _BLOCK + ".attn.qkv.bias", ("query", "key", "value"), "qkv_bias"),
    *torch_rows.norm("qk_norm", _ATTENTION + "/query_norm", _BLOCK + ".attn.q_norm", "d"),
    *torch_rows.norm("qk_norm", _ATTENTION + "/key_norm", _BLOCK + ".attn.k_norm", "d"),
    *torch_rows.attention_output("block", _ATTENTION, _BLOCK + ".attn.proj"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_2", _BLOCK + ".norm2", "D"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_1", _BLOCK + ".mlp.{fc1}", "D", "H"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_2", _BLOCK + ".mlp.{fc2}", "M", "D"),
    Row("layer_scale", "encoderblock_{i}/layer_scale_1/gamma", _BLOCK + ".{scale_1}", "D"),
    Row("layer_scale", "encoderblock_{i}/layer_scale_2/gamma", _BLOCK + ".{scale_2}", "D"),
    *torch_rows.norm("tokens_norm", "encoder_norm", "norm", "D"),
    Row("map", "pooling/probe", "attn_pool.latent", "1 1 D"),
    Row("map", "pooling/attention/query_kernel", "attn_pool.q.weight", "D k d", "k*d D"),
    Row("map", "pooling/attention/query_bias", "attn_pool.q.bias", "k d", "k*d"),
    *torch_rows.fused_attention("map", "pooling/attention", "attn_pool.kv.weight",
        "attn_pool.kv.bias", ("key", "value")),
    *torch_rows.attention_output("map", "pooling/attention", "attn_pool.proj"),
    *torch_rows.norm("map", "pooling/norm", "attn_pool.norm", "D"),
    *torch_rows.dense("map", "pooling/mlp/dense_1", "attn_pool.mlp.fc1", "D", "M"),
    *torch_rows.dense("map", "pooling/mlp/dense_2", "attn_pool.mlp.fc2", "M", "D"),
    *torch_rows.norm("pooled_norm", "pooled_norm", "fc_norm", "D"),
    *torch_rows.dense("representation", "pre_logits", "pre_logits.fc", "D", "R"),
    *torch_rows.dense("head", "head", "head", "F", "Y"),
    *torch_rows.dense("distilled_head", "head_dist", "head_dist", "F", "Y"),
    *torch_rows.bit_rows("stem.conv", _UNIT, "norm"),
    Row("bit_head", "head/kernel", "head.fc.weight", "F Y", "Y F 1 1"),
    Row("bit_head", "head/bias", "head.fc.bias", "Y"),
)
# fmt: on

_TODAY = {
    "rows": "T", "registers": "reg_token", "fc1": "fc1", "fc2": "fc2", "mask": "never",
    "scale_1": "ls1.gamma", "scale_2": "ls2.gamma",
}  # fmt: skip
LAYOUTS = {
    "today": _TODAY,
    # `no_embed_class`: positions for the patches alone.
    "patch_positions": {**_TODAY, "rows": "N"},
    # facebookresearch's own names, where they are others.
    "deit3": {**_TODAY, "rows": "N", "scale_1": "gamma_1", "scale_2": "gamma_2"},
    "dinov2": {**_TODAY, "registers": "register_tokens", "mask": "mask"},
    "dinov2_giant": {
        **_TODAY,
        "registers": "register_tokens",
        "mask": "mask",
        "fc1": "w12",
        "fc2": "w3",
    },  # fmt: skip
}
DINOV2 = ("register_tokens", "mask")


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    if view.shape("stem.conv.weight") is not None:
        return _read_bit(view)
    found = timm_arguments.arguments_of(view.facts)
    return found if isinstance(found, str) else _read_vit(view, *found)


def _read_bit(view):
    name = view.facts.get("architecture", "resnetv2_50x1_bit")
    if not timm_arguments.RESNETS.fullmatch(str(name).partition(".")[0]):
        return f"config.json names the architecture {name!r:.100}, which is no BiT-ResNet"
    fields = torch_rows.resnet_fields(
        view, "stem.conv", "stages.{}.", "blocks.{}.", torch_rows.BIT_NUMBERS
    )
    if isinstance(fields, str):
        return fields
    if not fields["stage_depths"]:
        return "the stages are missing altogether"
    classes = view.vote(("head.fc.bias", 0), ("head.fc.weight", 0)) or 0
    return Architecture("bit", {**fields, "num_classes": classes})


def _read_vit(view, arguments, known):
    depth = len(view.indices("blocks.{}."))
    blocks = [f"blocks.{i}" for i in range(depth)]
    ends = (("patch_embed.proj.weight", 0), ("patch_embed.proj.bias", 0), ("norm.weight", 0))
    hidden = view.vote(*ends, *((f"{b}.norm1.weight", 0) for b in blocks))
    mlp_dim = view.vote(*((f"{b}.mlp.{{fc1}}.bias", 0) for b in blocks))
    kernel, positions = view.shape("patch_embed.proj.weight"), view.shape("pos_embed")
    shapes = kernel is not None and len(kernel) == 4 and positions and len(positions) == 3
    if not (depth and hidden and mlp_dim and shapes):
        return (
            "too little is left to read the architecture off: blocks, patch_embed.proj.weight "
            "(D, C, P, Q) or pos_embed (1, T, D)"
        )
    registers = view.shape("{registers}")
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "depth": depth,
        "patch_size": kernel[2:], "in_channels": kernel[1],
        "class_token": view.shape("cls_token") is not None,
        "distillation_token": view.shape("dist_token") is not None,
        "num_registers": registers[1] if registers and len(registers) == 3 else 0,
        "mask_token": view.layout["mask"] == "mask" and view.shape("mask_token") is not None,
        "pre_norm": view.shape("norm_pre.weight") is not None,
        # As in timm's code.
        "patch_bias": view.shape("norm_pre.weight") is None,
        "qkv_bias": any(view.shape(f"{b}.attn.qkv.bias") is not None for b in blocks),
        "qk_norm": any(view.shape(f"{b}.attn.q_norm.weight") is not None for b in blocks),
        "final_norm": next(
            (where for key, where in NORMS.items() if view.shape(f"{key}.weight")), "none"
        ),
        "representation_size": view.vote(("pre_logits.fc.bias", 0), ("pre_logits.fc.weight", 0)),
        "num_classes": view.vote(("head.bias", 0), ("head.weight", 0)) or 0,
    }  # fmt: skip
    scales = [view.shape(f"{b}.{{scale_{n}}}") for b in blocks for n in (1, 2)]
    # A majority, so that one array too many is named and not believed.
    if sum(scale is not None for scale in scales) > depth:
        value = arguments["init_values"]
        is_number = type(value) in (int, float) and math.isfinite(value)
        fields["layer_scale"] = float(value) if is_number and value else LAYER_SCALE
    inner = view.vote(*((f"{b}.mlp.{{fc2}}.weight", 1) for b in blocks))
    stems = [_BACKBONE + stem for stem in ("stem.conv", "conv")]
    stem_conv = next((stem for stem in stems if view.shape(f"{stem}.weight") is not None), None)
    shown = _shown(fields, view.shape("attn_pool.latent") is not None, mlp_dim == 2 * (inner or 0))
    pixels = kernel if stem_conv is None else view.shape(f"{stem_conv}.weight")
    shown["in_chans"] = pixels[1] if len(pixels) == 4 else fields["in_channels"]
    told = _told(fields, arguments, known, shown)
    if isinstance(told, str):
        return told
    told, assumed = told
    fields |= told
    family, stride = "vit", 1
    if stem_conv is not None:
        resnet = torch_rows.resnet_fields(
            view, stem_conv, _BACKBONE + "stages.{}.", "blocks.{}.", torch_rows.HYBRID_NUMBERS
        )
        if isinstance(resnet, str):
            return resnet
        fields, family = {**fields, **resnet}, "hybrid"
        stride = 4 * 2 ** max(len(resnet["stage_depths"]) - 1, 0)
    rows, cell = positions[1], [side * stride for side in fields["patch_size"]]
    leading = fields["class_token"] + fields["distillation_token"]
    if view.layout["registers"] == "reg_token":
        leading += fields["num_registers"]
    alone = _patches_alone(view, rows, cell, arguments, known, leading) if leading else False
    if isinstance(alone, str):
        return alone
    if leading and alone == (view.layout["rows"] == "T"):
        return None
    if alone and "no_embed_class" not in known:
        assumed = (*assumed, "positions of the patches alone")
    if alone and fields["distillation_token"]:
        return "keras_vit has no distillation token without a position"
    fields["register_positions"] = bool(
        fields["num_registers"] and not alone and view.layout["registers"] == "reg_token"
    )
    patches = rows - (0 if alone else leading)
    sizes = (view.image_size, arguments.get("img_size"))
    grids = [torch_rows.grid_of(size, cell, patches) for size in sizes]
    if family == "vit":
        own, rest = _own_patches(view.facts, sizes[1], cell, patches)
        grids, fields = [grids[0], own], {**fields, **rest}
    if sizes[1] is not None and grids[1] is None:
        return f"config.json says `img_size` {sizes[1]!r:.100}, which is not of {patches} patches"
    architecture = Architecture(family, fields, grid=grids[1] or grids[0], assumed=assumed)
    return dataclasses.replace(
        architecture, num_positions=patches + architecture.num_leading_positions
    )


def _shown(fields, pooled, gated):
    """Argument of timm -> what the arrays show, of those that arrays show."""
    shown = {
        "embed_dim": fields["hidden_size"],
        "patch_size": tuple(fields["patch_size"]),
        "init_values": "layer_scale" in fields,
        "reg_tokens": fields["num_registers"],
        "distilled": fields["distillation_token"],
        "final_norm": fields["final_norm"] != "none",
        "norm": fields["final_norm"],
        "pooled": pooled,
        "mlp_layer": "swiglu_packed" if gated else "Mlp",
    }
    same = ("depth", "mlp_dim", "class_token", "num_classes", "pre_norm", "qkv_bias", "qk_norm")
    return {**shown, **{name: fields[name] for name in same}}


def _told(fields, arguments, known, shown):
    """(fields that no array tells, what of them is assumed), or a sentence on what cannot be."""
    hidden = fields["hidden_size"]
    if {"act_layer", "norm_layer"} - known and (fields["pre_norm"] or shown["pooled"]):
        return (
            "no array tells the activation of a model with `norm_pre` or `attn_pool`: put a "
            'config.json beside the file that names it, {"architecture": "vit_base_patch16_..."}'
        )
    problems = timm_arguments.contradictions(arguments, known, shown)
    if problems:
        return "; ".join(problems)
    heads = arguments["num_heads"] if "num_heads" in known else HEADS.get(hidden, hidden // 64)
    if type(heads) is not int or heads < 1 or hidden % heads:
        return (
            f"no array tells the number of heads, and {heads!r} does not divide {hidden}; put it "
            'into a config.json beside the file: {"model_args": {"num_heads": ...}}'
        )
    gated = shown["mlp_layer"] == "swiglu_packed"
    gelu = torch_rows.gelu_of(
        arguments, "act_layer", {"silu": "exact"} if gated else timm_config.GELUS
    )
    if gelu is None and not (gated and "act_layer" not in known):
        names = ", ".join(timm_config.GELUS)
        return f"`act_layer` {arguments['act_layer']!r:.100} is not one of {names}"
    epsilon = timm_arguments.layer_norm_epsilon(arguments["norm_layer"])
    if epsilon is None:
        return f"`norm_layer` {arguments['norm_layer']!r:.100} is no layer norm of keras_vit"
    pooling = _pooling(fields, arguments, known, shown)
    if pooling is None:
        return f"keras_vit has no such model with `global_pool` {arguments['global_pool']!r:.100}"
    assumed = {
        "num_heads": f"{heads} heads",
        "act_layer": "the exact GELU",
        "norm_layer": f"a layer norm's epsilon of {epsilon}",
        "global_pool": f"the pooling {pooling!r}",
    }
    told = {
        "num_heads": heads,
        "pooling": pooling,
        "gelu": gelu or "exact",
        "gated_mlp": gated,
        "mlp_dim": fields["mlp_dim"] // 2 if gated else fields["mlp_dim"],
        "layer_norm_epsilon": epsilon,
    }
    if fields["num_classes"] and fields["class_token"] and fields["final_norm"] == "tokens":
        assumed.pop("global_pool")
    return told, tuple(words for name, words in assumed.items() if name not in known)


def _pooling(fields, arguments, known, shown):
    """Our name of the pooling, or None for one that keras_vit does not have."""
    leading = fields["class_token"] or fields["num_registers"]
    if fields["distillation_token"]:
        return "distillation" if arguments["global_pool"] == "token" else None
    name = arguments["global_pool"]
    if "global_pool" not in known:
        mean = fields["final_norm"] == "pooled" or not fields["class_token"]
        name = "avg" if mean else "token"
    whole = arguments["pool_include_prefix"] is True or not leading
    if (name == "map") != shown["pooled"]:
        return None
    if name == "map":
        return "attention" if whole else None
    if name == "avg":
        return "mean" if whole else "patch_mean"
    if name == "token":
        return "token" if fields["class_token"] else None
    return "none" if name == "" else None


def _patches_alone(view, rows, cell, arguments, known, leading):
    """Whether positions of a model with tokens before its patches have no rows for them.

    Returns:
        True or False, or a sentence where it could be either.
    """
    if "no_embed_class" in known:
        return arguments["no_embed_class"] is True and not arguments["distilled"]
    given, own = view.image_size, arguments.get("img_size")
    if any(torch_rows.grid_of(size, cell, rows - leading) for size in (given, own)):
        return False
    if torch_rows.grid_of(own, cell, rows):
        return True
    # A given size may be that of the file, or one to which a square is to be resized.
    fits = torch_rows.grid_of(given, cell, rows) is not None
    if _is_square(rows - leading) and fits != _is_square(rows):
        return (
            f"its {rows} positions may be those of {rows} patches alone, or of {rows - leading} "
            f"and of the {leading} before them: put a config.json beside the file that tells it, "
            '{"model_args": {"no_embed_class": true}} or false'
        )
    return fits or _is_square(rows)


def _own_patches(facts, image_size, patch_size, num_patches):
    """The grid and the rest of the image size that one of two fields of `config.json` tells."""
    if image_size is None and isinstance(facts.get("pretrained_cfg"), dict):
        size = facts["pretrained_cfg"].get("input_size")
        if isinstance(size, list) and len(size) == 3:
            grid, rest = torch_rows.patches_of(size[1:], patch_size, num_patches)
            return (grid, rest) if rest else (None, {})
    return torch_rows.patches_of(image_size, patch_size, num_patches)


def _is_square(number):
    return number > 0 and math.isqrt(number) ** 2 == number


def layout_for(_name, architecture, came_in=None):
    """The layout of a model: registers without positions go with patches that alone have them."""
    fields = architecture.fields
    without = fields.get("num_registers") and not fields["register_positions"]
    if without and fields["class_token"] and came_in in (None, "today"):
        return "patch_positions"
    return came_in


def resize_rule(architecture, layout):
    """timm's, which DINOv2's own code has for models with registers alone."""
    is_own = layout in ("dinov2", "dinov2_giant") and not architecture.fields["num_registers"]
    return "bicubic_offset" if is_own else "bicubic_antialias"


def unsupported(architecture):
    """What timm could not load, or would compute differently."""
    if architecture.family == "bit":
        return torch_rows.differences(architecture, torch_rows.BIT_NUMBERS)
    fields = architecture.fields
    leading = fields["class_token"] or fields.get("num_registers", 0)
    poolings = ["mean", "attention", "none"]
    poolings += ["token"] if fields["class_token"] else []
    poolings += ["patch_mean"] if leading else []
    poolings += ["distillation"] if fields.get("distillation_token") else []
    expected = {
        "position_embedding": "learned",
        "pooling": ("distillation",) if fields.get("distillation_token") else tuple(poolings),
        "use_head_bias": True,
        "patch_bias": not fields.get("pre_norm", False),
        "layer_norm_epsilon": (timm_arguments.EPSILON, timm_arguments.CLIP_EPSILON),
    }
    kind = timm_config.kind_of(fields)
    if kind[0] in expected["layer_norm_epsilon"] and kind not in timm_config.BASES:
        return [f"`gated_mlp` {kind[1]}, `distillation_token` {kind[2]} and epsilon {kind[0]}"]
    if architecture.family == "hybrid":
        expected |= {**torch_rows.HYBRID_NUMBERS, "stage_depths": tuple(timm_config.HYBRIDS)}
    return torch_rows.differences(architecture, expected)


TIMM = Format(
    name="timm",
    families=("vit", "hybrid", "bit"),
    signatures=(
        Signature(("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")),
        Signature(("stem.conv.weight", "stages.0.blocks.0.conv1.weight")),
    ),
    prefixes=torch_rows.WRAPPERS,
    keeps_prefix=True,
    layouts=LAYOUTS,
    rows=ROWS,
    dropped=(),
    architecture=read_architecture,
    scopes=torch_rows.scopes(ROWS),
    unsupported=unsupported,
    to_model=big_vision.to_model,
    to_table=big_vision.to_table,
    side_files=timm_config.side_files,
    about=timm_config.read_about,
    folder_file="model.safetensors",
    resize_rule=resize_rule,
    optional_parts=(
        *("layer_scale", "num_registers", "register_positions", "distillation_token"),
        *("mask_token", "pre_norm", "final_norm", "patch_bias", "qkv_bias", "qk_norm"),
        *("gated_mlp", "partial_patches"),
    ),
    layout_for=layout_for,
    left_out=("mask/token",),
    constants={"hybrid": torch_rows.HYBRID_NUMBERS, "bit": torch_rows.BIT_NUMBERS},
)
