"""The `config.json` of a timm model: written with what timm makes the model again, and read for
its pixels and classes.  What it says of the architecture is read in `timm_arguments`.
"""

from keras_vit.checkpoints.format import About
from keras_vit.checkpoints.formats import preprocessing_configs as configs
from keras_vit.checkpoints.formats import timm_arguments

GELUS = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
# Their name of a pooling -> ours.
POOLINGS = {
    "token": ("token", "distillation"),
    "avg": ("mean", "patch_mean"),
    "map": ("attention",),
    "": ("none",),
}
# (epsilon, gated MLP, distillation token), which arguments cannot ask for -> a model that has them.
BASES = {
    (timm_arguments.EPSILON, False, False): "vit_base_patch16_224",
    (timm_arguments.CLIP_EPSILON, False, False): "vit_base_patch32_clip_224",
    (timm_arguments.EPSILON, True, False): "vit_giant_patch14_dinov2",
    (timm_arguments.EPSILON, False, True): "deit_tiny_distilled_patch16_224",
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


def kind_of(fields):
    """The key of `BASES` for a configuration's fields."""
    epsilon = fields.get("layer_norm_epsilon", timm_arguments.EPSILON)
    parts = ("gated_mlp", "distillation_token")
    return (epsilon, *(bool(fields.get(part, False)) for part in parts))


def side_files(architecture, layout, about):
    """The `config.json` with which timm makes the model, and its pixels and classes."""
    config = _model_config(architecture, layout)
    if about.preprocessing is not None:
        channels = architecture.fields["in_channels"]
        config["pretrained_cfg"] = configs.to_timm(about.preprocessing, channels)
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
        preprocessing=configs.from_timm(config) if isinstance(config, dict) else None,
    )


def _model_config(architecture, layout):
    fields = architecture.fields
    if architecture.family == "bit":
        name, width = BITS.get(tuple(fields["stage_depths"])), fields["width_factor"]
        named = {"architecture": f"{name}x{int(width)}_bit"} if name and width == int(width) else {}
        return {**named, "num_classes": fields["num_classes"]}
    if architecture.family == "hybrid":
        name = HYBRIDS[tuple(fields["stage_depths"])]
    else:
        name = BASES[kind_of(fields)]
    gated = fields["gated_mlp"]
    pooling = next(name for name, ours in POOLINGS.items() if fields["pooling"] in ours)
    leading = bool(fields["class_token"] or fields["num_registers"])
    without = fields["num_registers"] and not fields["register_positions"]
    pooled_norm = fields["final_norm"] == "pooled"
    arguments = {
        "embed_dim": fields["hidden_size"],
        "depth": fields["depth"],
        "num_heads": fields["num_heads"],
        "mlp_ratio": _ratio(fields["mlp_dim"] * (2 if gated else 1), fields["hidden_size"]),
        "act_layer": "silu" if gated else next(n for n, g in GELUS.items() if g == fields["gelu"]),
    }
    said = {
        "init_values": fields["layer_scale"],
        "class_token": fields["class_token"],
        "reg_tokens": fields["num_registers"],
        "no_embed_class": layout["rows"] == "N" or bool(without),
        "pre_norm": fields["pre_norm"],
        "qkv_bias": fields["qkv_bias"],
        "qk_norm": fields["qk_norm"],
        "final_norm": fields["final_norm"] != "none",
        "global_pool": pooling,
        "pool_include_prefix": leading and fields["pooling"] in ("mean", "attention"),
        "fc_norm": None if pooled_norm == (pooling == "avg") else pooled_norm,
    }
    named = {**timm_arguments.DEFAULTS, **timm_arguments.named_models()[name]}
    arguments |= {key: value for key, value in said.items() if value != named[key]}
    arguments |= {
        "img_size": list(fields["image_size"]),
        "patch_size": fields["patch_size"][0],
        "in_chans": fields["in_channels"],
    }
    return {"architecture": name, "num_classes": fields["num_classes"], "model_args": arguments}


def _ratio(width, size):
    """The number by which timm multiplies `size`, and rounds down, to get `width`."""
    ratio = width / size
    return ratio if int(size * ratio) == width else (width + 0.5) / size
