"""`huggingface_clip` and `huggingface_siglip`: the image towers of CLIP and SigLIP (transformers).

Symbols: as in `vit_jax`.  The `config.json` beside the file is part of the format; in a file with
both towers, what it says of images is its `vision_config`, and the text tower is left out.
"""

import dataclasses
import functools

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import huggingface, torch_rows

_BLOCK = "{model}encoder.layers.{i}"
_OURS = "encoderblock_{i}"
_EMBEDDINGS = "{model}embeddings"
_HEAD = "{model}head"

# fmt: off
_SHARED = (
    *torch_rows.conv("model", "embedding", _EMBEDDINGS + ".patch_embedding", "p q C D"),
    Row("model", "posembed_input/embedding", _EMBEDDINGS + ".position_embedding.weight",
        "1 T D", "T D"),
    *torch_rows.norm("block", _OURS + "/norm_1", _BLOCK + ".layer_norm1", "D"),
    *torch_rows.attention("block", _OURS + "/attention", _BLOCK + ".self_attn",
        ("q_proj", "k_proj", "v_proj", "out_proj")),
    *torch_rows.norm("block", _OURS + "/norm_2", _BLOCK + ".layer_norm2", "D"),
    *torch_rows.dense("block", _OURS + "/mlp/dense_1", _BLOCK + ".mlp.fc1", "D", "M"),
    *torch_rows.dense("block", _OURS + "/mlp/dense_2", _BLOCK + ".mlp.fc2", "M", "D"),
    *torch_rows.norm("model", "encoder_norm", "{model}post_layernorm", "D"),
)
CLIP_ROWS = (
    *_SHARED,
    Row("class_token", "cls/token", _EMBEDDINGS + ".class_embedding", "1 1 D", "D"),
    # Their spelling.
    *torch_rows.norm("pre_norm", "pre_norm", "{model}pre_layrnorm", "D"),
    Row("head", "head/kernel", "visual_projection.weight", "F Y", "Y F"),
)
SIGLIP_ROWS = (
    *_SHARED,
    Row("patch_bias", "embedding/bias", _EMBEDDINGS + ".patch_embedding.bias", "D"),
    Row("map", "pooling/probe", _HEAD + ".probe", "1 1 D"),
    *torch_rows.fused_attention("map", "pooling/attention", _HEAD + ".attention.in_proj_weight",
        _HEAD + ".attention.in_proj_bias", ("query", "key", "value")),
    *torch_rows.attention_output("map", "pooling/attention", _HEAD + ".attention.out_proj"),
    *torch_rows.norm("map", "pooling/norm", _HEAD + ".layernorm", "D"),
    *torch_rows.dense("map", "pooling/mlp/dense_1", _HEAD + ".mlp.fc1", "D", "M"),
    *torch_rows.dense("map", "pooling/mlp/dense_2", _HEAD + ".mlp.fc2", "M", "D"),
)
# fmt: on
LAYOUTS = {"vision_model": {"model": "vision_model."}, "model": {"model": ""}}
# Keys of the text tower, of what both towers share, and of numbers that count positions.
DROPPED = (
    r"text_model\.", r"text_projection\.", r"logit_(scale|bias)$",
    r"(vision_model\.)?embeddings\.position_ids$",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tower:
    """What differs between the two.

    Attributes:
        model_type: Of the image tower in a `config.json`.
        both: `model_type` of a file with both towers.
        architecture: What transformers calls the image tower.
        gelu: Their activation where the file names none.
        epsilon: Likewise, of the layer norms.
        class_token: Whether it has one.
    """

    model_type: str
    both: tuple[str, ...]
    architecture: str
    gelu: str
    epsilon: float
    class_token: bool


CLIP = Tower("clip_vision_model", ("clip",), "CLIPVisionModel", "quick_gelu", 1e-5, True)
SIGLIP = Tower(
    "siglip_vision_model", ("siglip",), "SiglipVisionModel", "gelu_pytorch_tanh", 1e-6, False
)


def _read_architecture(tower, view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    config = view.facts
    if isinstance(config.get("vision_config"), dict):
        config = {"model_type": tower.model_type, **config["vision_config"]}
    depth = len(view.indices(view.layout["model"] + "encoder.layers.{}."))
    blocks = [f"{{model}}encoder.layers.{i}" for i in range(depth)]
    kernel = view.shape("{model}embeddings.patch_embedding.weight")
    positions = view.shape("{model}embeddings.position_embedding.weight")
    hidden = view.vote(
        ("{model}embeddings.patch_embedding.weight", 0),
        ("{model}post_layernorm.weight", 0),
        *((f"{b}.layer_norm1.weight", 0) for b in blocks),
    )
    mlp_dim = view.vote(*((f"{b}.mlp.fc1.bias", 0) for b in blocks))
    if kernel is None or not depth:
        return None
    if len(kernel) != 4 or not (hidden and mlp_dim and positions and len(positions) == 2):
        return (
            "too little is left to read the architecture off: the patch_embedding (D, C, P, Q), "
            "position_embedding (T, D) or the MLPs"
        )
    if config.get("model_type", tower.model_type) not in (tower.model_type, *tower.both):
        return f"`model_type` {config['model_type']!r:.100} is not {tower.model_type}"
    heads = torch_rows.heads_of(config, "num_attention_heads", hidden, default=12)
    epsilon = torch_rows.epsilon_of(config, tower.epsilon)
    for told in (heads, epsilon):
        if isinstance(told, str):
            return told
    activation = config.get("hidden_act", tower.gelu)
    gelu = torch_rows.gelu_of({"hidden_act": activation}, "hidden_act", huggingface.GELUS)
    if gelu is None:
        return f"`hidden_act` {activation!r:.100} is not one of {', '.join(huggingface.GELUS)}"
    fields = {
        "hidden_size": hidden, "mlp_dim": mlp_dim, "num_heads": heads, "depth": depth,
        "patch_size": kernel[2:], "in_channels": kernel[1], "class_token": tower.class_token,
        "representation_size": None, "gelu": gelu, "layer_norm_epsilon": epsilon,
        **_ends(tower, view),
    }  # fmt: skip
    count = positions[0] - tower.class_token
    grid, rest = torch_rows.patches_of(config.get("image_size"), kernel[2:], count)
    shown = {
        "hidden_size": hidden,
        "intermediate_size": mlp_dim,
        "num_hidden_layers": depth,
        "patch_size": tuple(kernel[2:]),
        "num_channels": kernel[1],
    }
    if fields["num_classes"]:
        shown["projection_dim"] = fields["num_classes"]
    if tower is SIGLIP:
        shown["vision_use_head"] = fields["pooling"] == "attention"
    problems = torch_rows.contradictions(config, shown)
    projects = f"{tower.architecture}WithProjection"
    if config.get("architectures") == [projects] and not fields["num_classes"]:
        problems.append(f"config.json says {projects}, there is no visual_projection.weight")
    if grid is None and config.get("image_size") is not None:
        size = config["image_size"]
        problems.append(f"config.json says `image_size` {size!r:.100}, not of {count} patches")
    if problems:
        return "; ".join(problems)
    return Architecture("vit", {**fields, **rest}, num_positions=positions[0], grid=grid)


def _ends(tower, view):
    """The fields of what comes before and after the blocks."""
    if tower is CLIP:
        return {
            "pooling": "token",
            "pre_norm": True,
            "patch_bias": False,
            "num_classes": view.vote(("visual_projection.weight", 0)) or 0,
            "use_head_bias": view.shape("visual_projection.weight") is None,
        }
    pooled = view.shape("{model}head.probe") is not None
    return {"pooling": "attention" if pooled else "none", "num_classes": 0}


def _unsupported(tower, architecture):
    """What transformers could not load, or would compute differently."""
    fields = architecture.fields
    expected = {"position_embedding": "learned", "representation_size": None}
    if tower is CLIP:
        expected |= {
            "class_token": True,
            "pooling": "token",
            "pre_norm": True,
            "patch_bias": False,
            "use_head_bias": not fields["num_classes"],
        }
    else:
        expected |= {"class_token": False, "pooling": ("attention", "none"), "num_classes": 0}
    return torch_rows.differences(architecture, expected)


def _layout_for(tower, _name, architecture, came_in=None):
    """The layout of a model: a projection stands beside the tower, whose keys then have a name."""
    if tower is CLIP and architecture.fields["num_classes"]:
        return "vision_model"
    return came_in or "vision_model"


def _side_files(tower, architecture, _layout, about):
    """The `config.json` with which transformers makes the model, and that of its pixels."""
    fields = architecture.fields
    projects = bool(fields["num_classes"])
    config = {
        "architectures": [tower.architecture + ("WithProjection" if projects else "")],
        "model_type": tower.model_type,
        "hidden_size": fields["hidden_size"],
        "intermediate_size": fields["mlp_dim"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
        "hidden_act": huggingface.name_of_gelu(fields["gelu"]),
        "layer_norm_eps": fields["layer_norm_epsilon"],
        "attention_dropout": fields["attention_dropout"],
        "image_size": huggingface.one_if_equal(fields["image_size"]),
        "patch_size": huggingface.one_if_equal(fields["patch_size"]),
        "num_channels": fields["in_channels"],
    }
    if projects:
        config["projection_dim"] = fields["num_classes"]
    if tower is SIGLIP:
        config["vision_use_head"] = fields["pooling"] == "attention"
    return {"config.json": config, **huggingface.pixels(architecture, about)}


def _format(name, tower, rows, mark, optional_parts):
    return Format(
        name=name,
        families=("vit",),
        signatures=tuple(
            Signature((f"{model}embeddings.patch_embedding.weight", f"{model}{mark[0]}"), mark[1])
            for model in ("vision_model.", "")
        ),
        prefixes=torch_rows.WRAPPERS,
        keeps_prefix=True,
        layouts=LAYOUTS,
        rows=rows,
        dropped=DROPPED,
        architecture=functools.partial(_read_architecture, tower),
        scopes=torch_rows.scopes(rows),
        unsupported=functools.partial(_unsupported, tower),
        side_files=functools.partial(_side_files, tower),
        about=functools.partial(huggingface.read_about, labelled=False),
        layout_for=functools.partial(_layout_for, tower),
        folder_file="model.safetensors",
        resize_rule="bicubic",
        optional_parts=("partial_patches", *optional_parts),
        left_out=("mask/token",),
    )


HUGGINGFACE_CLIP = _format(
    "huggingface_clip",
    CLIP,
    CLIP_ROWS,
    ("embeddings.class_embedding", ()),
    ("pre_norm", "patch_bias", "use_head_bias"),
)
HUGGINGFACE_SIGLIP = _format(
    "huggingface_siglip",
    SIGLIP,
    SIGLIP_ROWS,
    (
        "embeddings.position_embedding.weight",
        ("embeddings.class_embedding", "vision_model.embeddings.class_embedding"),
    ),
    (),
)
