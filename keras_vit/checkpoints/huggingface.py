"""`huggingface`: ViT, ViT hybrid and BiT of huggingface/transformers.

Symbols: as in `vit_jax`; b0 u0 a unit's indices from zero.  The `config.json` beside the file is
part of the format: the number of heads, the activation and the epsilon are in no array.
"""

from keras_vit.checkpoints import pixels, torch_rows
from keras_vit.checkpoints.tables import About, Architecture, Format, Row, Signature

GELUS = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh"}
# Written, and expected where they are given: other values are other models.
BIT_CONFIG = {
    "layer_type": "preactivation",
    "global_padding": None,
    "embedding_dynamic_padding": False,
    "num_groups": 32,
    "hidden_act": "relu",
    "output_stride": 32,
}
BACKBONE_CONFIG = {
    **BIT_CONFIG,
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
}

_BLOCK = "{vit}encoder.layer.{i}"
_PATCHES = "{vit}embeddings.patch_embeddings"
_BACKBONE = _PATCHES + ".backbone.bit"
_UNIT = "encoder.stages.{b0}.layers.{u0}"

# fmt: off
ROWS = (
    *torch_rows.hybrid_rows(
        _BACKBONE + ".embedder.convolution", _BACKBONE + ".embedder.norm", f"{_BACKBONE}.{_UNIT}"
    ),
    *torch_rows.conv("model", "embedding", _PATCHES + ".projection", "p q C D"),
    Row("model", "embedding/bias", _PATCHES + ".projection.bias", "D"),
    Row("class_token", "cls/token", "{vit}embeddings.cls_token", "1 1 D"),
    Row("model", "posembed_input/embedding", "{vit}embeddings.position_embeddings", "1 T D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_1", _BLOCK + ".layernorm_before", "D"),
    *(
        row
        for name in ("query", "key", "value")
        for row in (
            Row("block", f"encoderblock_{{i}}/attention/{name}_kernel",
                f"{_BLOCK}.attention.attention.{name}.weight", "D k d", "k*d D"),
            Row("block", f"encoderblock_{{i}}/attention/{name}_bias",
                f"{_BLOCK}.attention.attention.{name}.bias", "k d", "k*d"),
        )
    ),
    Row("block", "encoderblock_{i}/attention/out_kernel", _BLOCK + ".attention.output.dense.weight",
        "k d D", "D k*d"),
    Row("block", "encoderblock_{i}/attention/out_bias", _BLOCK + ".attention.output.dense.bias",
        "D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_2", _BLOCK + ".layernorm_after", "D"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_1", _BLOCK + ".intermediate.dense",
                      "D", "M"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_2", _BLOCK + ".output.dense", "M", "D"),
    *torch_rows.norm("model", "encoder_norm", "{vit}layernorm", "D"),
    *torch_rows.dense("representation", "pre_logits", "{vit}pooler.dense", "D", "R"),
    *torch_rows.dense("head", "head", "classifier", "F", "Y"),
    *torch_rows.bit_rows("{bit}embedder.convolution", "{bit}" + _UNIT, "{bit}norm"),
    *torch_rows.dense("bit_head", "head", "classifier.1", "F", "Y"),
)
# fmt: on

LAYOUTS = {
    "classifier": {"vit": "vit.", "bit": "bit."},
    "model": {"vit": "", "bit": ""},
}


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    if view.shape("{bit}embedder.convolution.weight") is not None:
        return _read_bit(view)
    if view.shape(_PATCHES + ".projection.weight") is not None:
        return _read_vit(view)
    return None


def _other_resnet(config, expected):
    for name, value in expected.items():
        found = config.get(name, value)
        if found != value and not (isinstance(value, str) and str(found).lower() == value):
            return f"config.json has `{name}` {found!r}, expected {value!r}"
    return None


def _read_bit(view):
    fields = torch_rows.resnet_fields(
        view,
        "{bit}embedder.convolution",
        view.layout["bit"] + "encoder.stages.{}.",
        "layers.{}.",
        torch_rows.BIT_NUMBERS,
    )
    if isinstance(fields, str):
        return fields
    if not fields["stage_depths"]:
        return "the stages are missing altogether"
    other = _other_resnet(view.facts, BIT_CONFIG)
    classes = view.vote(("classifier.1.bias", 0), ("classifier.1.weight", 0)) or 0
    return other or Architecture("bit", {**fields, "num_classes": classes})


def _read_vit(view):
    config = view.facts
    depth = len(view.indices(view.layout["vit"] + "encoder.layer.{}."))
    blocks = ["{vit}" + f"encoder.layer.{i}" for i in range(depth)]
    patches = _PATCHES + ".projection"
    hidden = view.vote(
        (f"{patches}.weight", 0),
        (f"{patches}.bias", 0),
        *((f"{b}.layernorm_before.weight", 0) for b in blocks),
    )
    mlp_dim = view.vote(*((f"{b}.intermediate.dense.bias", 0) for b in blocks))
    kernel = view.shape(f"{patches}.weight")
    positions = view.shape("{vit}embeddings.position_embeddings")
    shapes = kernel is not None and len(kernel) == 4 and positions and len(positions) == 3
    if not (depth and hidden and mlp_dim and shapes):
        return (
            "too little is left to read the architecture off: encoder layers, the projection of "
            "patches (D, C, P, Q) or position_embeddings (1, T, D)"
        )
    heads = config.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or hidden % heads:
        return (
            "no array tells the number of heads: the config.json that belongs to the file must be "
            f"beside it, with `num_attention_heads` that divide {hidden}. Received: {heads!r}"
        )
    gelu = torch_rows.gelu_of(config, "hidden_act", GELUS)
    if gelu is None:
        return f"`hidden_act` {config['hidden_act']!r} is not one of {', '.join(GELUS)}"
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        return f"`layer_norm_eps` must be a small number. Received: {epsilon!r}"
    if config.get("pooler_act", "tanh") != "tanh":
        return f"`pooler_act` {config['pooler_act']!r} is not tanh"
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "num_heads": heads, "depth": depth,
        "patch_size": kernel[2:], "in_channels": kernel[1], "class_token": True, "pooling": "token",
        "representation_size": view.vote(
            ("{vit}pooler.dense.bias", 0), ("{vit}pooler.dense.weight", 0)
        ),
        "num_classes": view.vote(("classifier.bias", 0), ("classifier.weight", 0)) or 0,
        "gelu": gelu, "layer_norm_epsilon": epsilon,
    }  # fmt: skip
    family, stride = "vit", 1
    if view.shape(f"{_BACKBONE}.embedder.convolution.weight") is not None:
        resnet = torch_rows.resnet_fields(
            view,
            _BACKBONE + ".embedder.convolution",
            view.layout["vit"] + _BACKBONE.removeprefix("{vit}") + ".encoder.stages.{}.",
            "layers.{}.",
            torch_rows.HYBRID_NUMBERS,
        )
        backbone = config.get("backbone_config") or {}
        other = _other_resnet(backbone, BACKBONE_CONFIG) if isinstance(backbone, dict) else None
        if other or isinstance(resnet, str):
            return other or resnet
        fields, family = {**fields, **resnet}, "hybrid"
        stride = 4 * 2 ** max(len(resnet["stage_depths"]) - 1, 0)
    cell = [side * stride for side in fields["patch_size"]]
    grid = torch_rows.grid_of(config.get("image_size"), cell, positions[1] - 1)
    return Architecture(family, fields, num_positions=positions[1], grid=grid)


def unsupported(architecture):
    """What transformers could not load, or would compute differently."""
    if architecture.family == "bit":
        return torch_rows.differences(architecture, torch_rows.BIT_NUMBERS)
    expected = {"position_embedding": "learned", "class_token": True, "pooling": "token"}
    if architecture.fields["num_classes"]:
        # Its pooler belongs to the model without a classifier.
        expected["representation_size"] = None
    if architecture.family == "hybrid":
        expected |= torch_rows.HYBRID_NUMBERS
        if not architecture.fields["stage_depths"]:
            return ["a hybrid without stages"]
    return torch_rows.differences(architecture, expected)


def side_files(architecture, _layout, about):
    """The `config.json` with which transformers makes the model, and that of its pixels."""
    files = {"config.json": _model_config(architecture, about.class_names)}
    if about.preprocessing is not None:
        channels = architecture.fields["in_channels"]
        files["preprocessor_config.json"] = pixels.to_huggingface(about.preprocessing, channels)
    return files


def read_about(facts, architecture):
    """Class names and pixels, where the files beside the arrays tell them."""
    processor = facts.get("preprocessor_config.json")
    return About(
        class_names=_class_names(facts.get("id2label"), architecture.fields["num_classes"]),
        preprocessing=pixels.from_huggingface(processor) if isinstance(processor, dict) else None,
    )


def _class_names(labels, num_classes):
    """The names in `id2label`; None for transformers' placeholders and for other than the head's.

    Raises:
        ValueError: if it does not name each class of the head.
    """
    if not isinstance(labels, dict) or not num_classes:
        return None
    names = [labels.get(str(i)) for i in range(num_classes)]
    if len(labels) != num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`id2label` in config.json must name each of the {num_classes} classes of the head. "
            f"Received: {len(labels)} names"
        )
    return None if names == _placeholders(num_classes) else tuple(names)


def _placeholders(num_classes):
    return [f"LABEL_{i}" for i in range(num_classes)]


def _model_config(architecture, class_names):
    fields = architecture.fields
    names = list(class_names or _placeholders(fields["num_classes"]))
    labels = {str(i): name for i, name in enumerate(names)}
    classes = {"id2label": labels, "label2id": {name: i for i, name in enumerate(names)}}
    if architecture.family == "bit":
        return {
            "architectures": ["BitForImageClassification" if labels else "BitModel"],
            "model_type": "bit",
            **_resnet_config(fields, BIT_CONFIG),
            **classes,
        }
    name = "ViTHybrid" if architecture.family == "hybrid" else "ViT"
    config = {
        "architectures": [f"{name}ForImageClassification" if labels else f"{name}Model"],
        "model_type": "vit-hybrid" if architecture.family == "hybrid" else "vit",
        "hidden_size": fields["hidden_size"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
        "intermediate_size": fields["mlp_dim"],
        "hidden_act": next(act for act, gelu in GELUS.items() if gelu == fields["gelu"]),
        "hidden_dropout_prob": fields["dropout"],
        "attention_probs_dropout_prob": fields["attention_dropout"],
        "layer_norm_eps": fields["layer_norm_epsilon"],
        "image_size": _one_if_equal(fields["image_size"]),
        "patch_size": _one_if_equal(fields["patch_size"]),
        "num_channels": fields["in_channels"],
        "qkv_bias": True,
        "pooler_output_size": fields["representation_size"] or fields["hidden_size"],
        **classes,
    }
    if architecture.family == "hybrid":
        last = f"stage{len(fields['stage_depths'])}"
        config["backbone_config"] = {
            "model_type": "bit",
            **_resnet_config(fields, BACKBONE_CONFIG),
            "out_features": [last],
        }
    return config


def _resnet_config(fields, config):
    root = int(64 * fields["width_factor"])
    depths = list(fields["stage_depths"])
    sizes = [4 * root * 2**b for b in range(len(depths))]
    return {
        **config,
        "embedding_size": root,
        "hidden_sizes": sizes,
        "depths": depths,
        "width_factor": 1,
        "num_channels": fields["in_channels"],
    }


def _one_if_equal(sides):
    return sides[0] if sides[0] == sides[1] else list(sides)


HUGGINGFACE = Format(
    name="huggingface",
    families=("vit", "hybrid", "bit"),
    signatures=tuple(
        Signature((prefix + key,))
        for key in ("embeddings.patch_embeddings.projection.weight", "embedder.convolution.weight")
        for prefix in ("vit." if key.startswith("embeddings") else "bit.", "")
    ),
    prefixes=("",),
    layouts=LAYOUTS,
    rows=ROWS,
    # Of masked pre-training.
    dropped=(r"(vit\.)?embeddings\.mask_token$",),
    architecture=read_architecture,
    scopes=torch_rows.scopes(ROWS),
    unsupported=unsupported,
    side_files=side_files,
    about=read_about,
    folder_file="model.safetensors",
)
