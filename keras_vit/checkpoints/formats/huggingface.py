"""`huggingface`: ViT, ViT hybrid and BiT of huggingface/transformers.

Symbols: as in `vit_jax`; b0 u0 a unit's indices from zero.  The `config.json` beside the file is
part of the format: the number of heads, the activation and the epsilon are in no array.
"""

from keras_vit.checkpoints.format import About, Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import preprocessing_configs as configs
from keras_vit.checkpoints.formats import torch_rows

GELUS = {
    "gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh",
    "quick_gelu": "quick",
}  # fmt: skip
MODEL_TYPES = ("vit", "vit-hybrid", "vit_mae", "vit_msn", "deit")
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

# Which DINOv2 has, and these models lack.
SCALES = ("encoder.layer.0.layer_scale1.lambda1", "layers.0.layer_scale1.lambda1")
_BLOCK = "{vit}{layers}.{i}"
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
    Row("distillation", "dist/token", "{vit}embeddings.distillation_token", "1 1 D"),
    Row("model", "posembed_input/embedding", "{vit}embeddings.position_embeddings", "1 T D"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_1", _BLOCK + ".layernorm_before", "D"),
    *torch_rows.attention("block", "encoderblock_{i}/attention", _BLOCK + ".attention",
        ("{query}", "{key}", "{value}", "{out}"), "qkv_bias"),
    *torch_rows.norm("block", "encoderblock_{i}/norm_2", _BLOCK + ".layernorm_after", "D"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_1", _BLOCK + ".{fc1}",
                      "D", "M"),
    *torch_rows.dense("block", "encoderblock_{i}/mlp/dense_2", _BLOCK + ".{fc2}", "M", "D"),
    *torch_rows.norm("model", "encoder_norm", "{vit}layernorm", "D"),
    *torch_rows.dense("representation", "pre_logits", "{vit}pooler.dense", "D", "R"),
    *torch_rows.dense("head", "head", "{head}", "F", "Y"),
    *torch_rows.dense("distilled_head", "head_dist", "distillation_classifier", "F", "Y"),
    *torch_rows.bit_rows("{bit}embedder.convolution", "{bit}" + _UNIT, "{bit}norm"),
    *torch_rows.dense("bit_head", "head", "classifier.1", "F", "Y"),
)
# fmt: on

_MODELS = {
    "classifier": {"vit": "vit.", "bit": "bit.", "head": "classifier"},
    "model": {"vit": "", "bit": "", "head": "classifier"},
    "deit": {"vit": "deit.", "bit": "never.", "head": "classifier"},
    "deit_with_teacher": {"vit": "deit.", "bit": "never.", "head": "cls_classifier"},
}
_BLOCKS = {
    "": {
        "layers": "encoder.layer", "query": "attention.query", "key": "attention.key",
        "value": "attention.value", "out": "output.dense", "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    # What transformers 5 calls the parts of its models, where it writes them as they are.
    "v5": {
        "layers": "layers", "query": "q_proj", "key": "k_proj", "value": "v_proj",
        "out": "o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    },
}  # fmt: skip
LAYOUTS = {
    "+".join(filter(None, (model, blocks))): {**_MODELS[model], **_BLOCKS[blocks]}
    for blocks in _BLOCKS
    for model in _MODELS
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
    depth = len(view.indices(view.layout["vit"] + view.layout["layers"] + ".{}."))
    if not depth:
        return None
    blocks = [f"{{vit}}{{layers}}.{i}" for i in range(depth)]
    patches = _PATCHES + ".projection"
    hidden = view.vote(
        (f"{patches}.weight", 0),
        (f"{patches}.bias", 0),
        *((f"{b}.layernorm_before.weight", 0) for b in blocks),
    )
    mlp_dim = view.vote(*((f"{b}.{{fc1}}.bias", 0) for b in blocks))
    kernel = view.shape(f"{patches}.weight")
    positions = view.shape("{vit}embeddings.position_embeddings")
    shapes = kernel is not None and len(kernel) == 4 and positions and len(positions) == 3
    if not (hidden and mlp_dim and shapes):
        return (
            "too little is left to read the architecture off: encoder layers, the projection of "
            "patches (D, C, P, Q) or position_embeddings (1, T, D)"
        )
    heads = torch_rows.heads_of(config, "num_attention_heads", hidden)
    if isinstance(heads, str):
        return heads
    gelu = torch_rows.gelu_of(config, "hidden_act", GELUS)
    if gelu is None:
        return f"`hidden_act` {config['hidden_act']!r:.100} is not one of {', '.join(GELUS)}"
    epsilon = torch_rows.epsilon_of(config, 1e-12)
    if isinstance(epsilon, str):
        return epsilon
    if config.get("pooler_act", "tanh") != "tanh":
        return f"`pooler_act` {config['pooler_act']!r:.100} is not tanh"
    if config.get("model_type", "vit") not in MODEL_TYPES:
        return f"`model_type` {config['model_type']!r:.100} is not one of {', '.join(MODEL_TYPES)}"
    distilled = view.shape("{vit}embeddings.distillation_token") is not None
    two_heads = view.shape("distillation_classifier.weight") is not None
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "num_heads": heads, "depth": depth,
        "patch_size": kernel[2:], "in_channels": kernel[1], "class_token": True,
        "distillation_token": distilled, "pooling": "distillation" if two_heads else "token",
        "qkv_bias": any(view.shape(f"{b}.attention.{{query}}.bias") is not None for b in blocks),
        "representation_size": view.vote(
            ("{vit}pooler.dense.bias", 0), ("{vit}pooler.dense.weight", 0)
        ),
        "num_classes": view.vote(("{head}.bias", 0), ("{head}.weight", 0)) or 0,
        "gelu": gelu, "layer_norm_epsilon": epsilon,
    }  # fmt: skip
    if two_heads and not distilled:
        return "a distillation_classifier without a distillation_token"
    shown = {
        "hidden_size": hidden, "num_hidden_layers": depth, "intermediate_size": mlp_dim,
        "qkv_bias": fields["qkv_bias"],
    }  # fmt: skip
    ends = {"num_labels": "num_classes", "pooler_output_size": "representation_size"}
    shown |= {name: fields[ours] for name, ours in ends.items() if fields[ours]}
    problems = torch_rows.contradictions(config, shown)
    if problems:
        return "; ".join(problems)
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
    leading, size = 1 + distilled, config.get("image_size")
    cell = [side * stride for side in fields["patch_size"]]
    grid = torch_rows.grid_of(size, cell, positions[1] - leading)
    if family == "vit":
        grid, rest = torch_rows.patches_of(size, kernel[2:], positions[1] - leading)
        fields |= rest
        shown = {"patch_size": tuple(kernel[2:]), "num_channels": kernel[1]}
        problems = torch_rows.contradictions(config, shown)
        if size is not None and grid is None:
            count = positions[1] - leading
            problems.append(f"config.json says `image_size` {size!r:.100}, not of {count} patches")
        if problems:
            return "; ".join(problems)
    return Architecture(family, fields, num_positions=positions[1], grid=grid)


def unsupported(architecture):
    """What transformers could not load, or would compute differently."""
    if architecture.family == "bit":
        return torch_rows.differences(architecture, torch_rows.BIT_NUMBERS)
    expected = {
        "position_embedding": "learned",
        "class_token": True,
        "pooling": ("token", "distillation"),
        "use_head_bias": True,
    }
    if architecture.fields["num_classes"]:
        # Its pooler belongs to the model without a classifier.
        expected["representation_size"] = None
    if architecture.family == "hybrid":
        expected |= torch_rows.HYBRID_NUMBERS
        if not architecture.fields["stage_depths"]:
            return ["a hybrid without stages"]
    return torch_rows.differences(architecture, expected)


def layout_for(_name, architecture, came_in=None):
    """The layout of a model: DeiT's keys for one with a distillation token."""
    fields = architecture.fields
    deit = bool(fields.get("distillation_token"))
    if came_in in LAYOUTS and (LAYOUTS[came_in]["vit"] == "deit.") == deit:
        return came_in
    if not deit:
        return came_in or "classifier"
    return "deit_with_teacher" if fields["pooling"] == "distillation" else "deit"


def side_files(architecture, _layout, about):
    """The `config.json` with which transformers makes the model, and that of its pixels."""
    config = _model_config(architecture, about.class_names)
    return {"config.json": config, **pixels(architecture, about)}


def pixels(architecture, about):
    """The JSON file that says what pixels the model wants; {} where that is not known."""
    if about.preprocessing is None:
        return {}
    channels = architecture.fields["in_channels"]
    return {"preprocessor_config.json": configs.to_huggingface(about.preprocessing, channels)}


def read_about(facts, architecture, labelled=True):
    """Class names and pixels, where the files beside the arrays tell them.

    Args:
        facts: What those files say.
        architecture: `Architecture`.
        labelled: Whether the head's outputs are classes, and no embedding.
    """
    processor, labels = facts.get("preprocessor_config.json"), facts.get("id2label")
    num_classes = architecture.fields["num_classes"]
    return About(
        class_names=_class_names(labels, num_classes) if labelled else None,
        preprocessing=configs.from_huggingface(processor) if isinstance(processor, dict) else None,
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


def class_labels(num_classes, class_names):
    """The fields of a `config.json` that name the classes, by placeholders where need be."""
    names = list(class_names or _placeholders(num_classes))
    labels = {str(i): name for i, name in enumerate(names)}
    return {"id2label": labels, "label2id": {name: i for i, name in enumerate(names)}}


def name_of_gelu(gelu):
    """Their name of a form of GELU."""
    return next(name for name, ours in GELUS.items() if ours == gelu)


def _model_config(architecture, class_names):
    fields = architecture.fields
    classes = class_labels(fields["num_classes"], class_names)
    labels = classes["id2label"]
    if architecture.family == "bit":
        return {
            "architectures": ["BitForImageClassification" if labels else "BitModel"],
            "model_type": "bit",
            **_resnet_config(fields, BIT_CONFIG),
            **classes,
        }
    name, model_type = "ViT", "vit"
    if architecture.family == "hybrid":
        name, model_type = "ViTHybrid", "vit-hybrid"
    elif fields["distillation_token"]:
        name, model_type = "DeiT", "deit"
    task = "ForImageClassification" if labels else "Model"
    if labels and fields["pooling"] == "distillation":
        task += "WithTeacher"
    config = {
        "architectures": [name + task],
        "model_type": model_type,
        "hidden_size": fields["hidden_size"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
        "intermediate_size": fields["mlp_dim"],
        "hidden_act": name_of_gelu(fields["gelu"]),
        "hidden_dropout_prob": fields["dropout"],
        "attention_probs_dropout_prob": fields["attention_dropout"],
        "layer_norm_eps": fields["layer_norm_epsilon"],
        "image_size": one_if_equal(fields["image_size"]),
        "patch_size": one_if_equal(fields["patch_size"]),
        "num_channels": fields["in_channels"],
        "qkv_bias": fields["qkv_bias"],
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


def one_if_equal(sides):
    """(height, width) as transformers has them: one number if they are equal."""
    return sides[0] if sides[0] == sides[1] else list(sides)


HUGGINGFACE = Format(
    name="huggingface",
    families=("vit", "hybrid", "bit"),
    signatures=(
        *(
            Signature((f"{model}embeddings.patch_embeddings.projection.weight",), absent=SCALES)
            for model in ("vit.", "deit.", "")
        ),
        *(Signature((f"{model}embedder.convolution.weight",)) for model in ("bit.", "")),
    ),
    prefixes=torch_rows.WRAPPERS,
    keeps_prefix=True,
    layouts=LAYOUTS,
    rows=ROWS,
    # Of masked pre-training.
    dropped=(r"(vit\.|deit\.)?embeddings\.mask_token$", r"decoder\."),
    architecture=read_architecture,
    scopes=torch_rows.scopes(ROWS),
    unsupported=unsupported,
    side_files=side_files,
    about=read_about,
    folder_file="model.safetensors",
    resize_rule="bicubic",
    layout_for=layout_for,
    optional_parts=("distillation_token", "qkv_bias", "partial_patches"),
    left_out=("mask/token",),
    constants={"hybrid": torch_rows.HYBRID_NUMBERS, "bit": torch_rows.BIT_NUMBERS},
)
