"""`vit_jax`: ViT and hybrid files of google-research/vision_transformer.

Symbols: D hidden, M mlp_dim, k heads, d = D / k, p q patch, C channels that are cut into patches,
T positions, R representation, Y classes; m middle and f output channels of a unit, c its input's.
"""

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import flax_rows

# "pre_linen" numbers a block's parts through (the published files), "linen" each kind by itself
# (what the code writes today).  Group norms were (1, 1, 1, C) in files of before 2022.
PRE_LINEN = {
    "norm_1": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_1",
    "norm_2": "LayerNorm_2",
    "mlp": "MlpBlock_3",
}
LINEN = {
    "norm_1": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_0",
    "norm_2": "LayerNorm_1",
    "mlp": "MlpBlock_0",
}
LAYOUTS = {
    "linen": {**LINEN, "ones": ""},
    "pre_linen": {**PRE_LINEN, "ones": "1 1 1"},
    "pre_linen_squeezed": {**PRE_LINEN, "ones": ""},
    "linen_unsqueezed": {**LINEN, "ones": "1 1 1"},
}

# An array without elements may claim any size: what follows from it must not take the memory.
MAX_DEPTH = 10_000

_BLOCK = "Transformer/encoderblock_{i}"
_UNIT = "block{b}/unit{u}"

ROWS = (
    Row("stem", "conv_root/kernel", "conv_root/kernel", "s t in root"),
    *flax_rows.norm("stem", "gn_root", "gn_root", "root", "{ones}"),
    *flax_rows.unit(
        [f"{_UNIT}/conv{n}" for n in (1, 2, 3)],
        [f"{_UNIT}/gn{n}" for n in (1, 2, 3)],
        ("m", "m", "f"),
        "{ones}",
    ),
    *flax_rows.projection(f"{_UNIT}/conv_proj"),
    *flax_rows.norm("projection", "block{b}_unit{u}/gn_proj", f"{_UNIT}/gn_proj", "f", "{ones}"),
    Row("model", "embedding/kernel", "embedding/kernel", "p q C D"),
    Row("model", "embedding/bias", "embedding/bias", "D"),
    Row("class_token", "cls/token", "cls", "1 1 D"),
    Row("model", "posembed_input/embedding", "Transformer/posembed_input/pos_embedding", "1 T D"),
    *flax_rows.encoder_block(_BLOCK, {part: f"{{{part}}}" for part in LINEN}),
    *flax_rows.norm("model", "encoder_norm", "Transformer/encoder_norm", "D"),
    *flax_rows.dense("representation", "pre_logits", "pre_logits", "D", "R"),
    *flax_rows.dense("head", "head", "head", "F", "Y"),
)


def _encoder_fields(view):
    """D, M, k and L by the vote of all arrays that know them, so that one bad array is outvoted."""
    depth = len(view.indices("Transformer/encoderblock_{}/"))
    blocks = [_BLOCK.replace("{i}", str(i)) for i in range(depth)]
    ends = (
        ("embedding/kernel", -1),
        ("embedding/bias", 0),
        ("cls", -1),
        ("Transformer/encoder_norm/scale", 0),
    )
    evidence = {
        "hidden_size": (("/{norm_1}/scale", 0), ("/{attention}/out/bias", 0)),
        "mlp_dim": (("/{mlp}/Dense_0/bias", 0), ("/{mlp}/Dense_0/kernel", 1)),
        "num_heads": (("/{attention}/query/bias", 0), ("/{attention}/out/kernel", 0)),
    }
    fields = {
        name: view.vote(
            *((block + key, axis) for block in blocks for key, axis in keys),
            *(ends if name == "hidden_size" else ()),
        )
        for name, keys in evidence.items()
    }
    return {**fields, "depth": depth}


def read_architecture(view):
    """The `Architecture` of a file, or a sentence that says what it lacks."""
    fields = _encoder_fields(view)
    missing = sorted(name for name, value in fields.items() if not value)
    kernel = view.shape("embedding/kernel")
    positions = view.shape("Transformer/posembed_input/pos_embedding")
    if missing or kernel is None or len(kernel) != 4 or positions is None or len(positions) != 3:
        return (
            "too little is left to read the architecture off: "
            f"{', '.join(missing) or 'embedding/kernel (P, Q, C, D) or positions (1, T, D)'}"
        )
    class_token = view.shape("cls") is not None
    representation = view.vote(("pre_logits/bias", 0), ("pre_logits/kernel", 1))
    fields |= {
        "patch_size": kernel[:2],
        "class_token": class_token,
        "pooling": "token" if class_token else "mean",
        "representation_size": representation,
        "num_classes": view.vote(("head/bias", 0), ("head/kernel", 1)) or 0,
    }
    family = "vit"
    if view.shape("conv_root/kernel") is not None:
        family = "hybrid"
        root = view.vote(("conv_root/kernel", -1), ("gn_root/scale", -1), ("gn_root/bias", -1))
        fields["width_factor"] = root / 64
        fields["in_channels"] = view.vote(("conv_root/kernel", 2)) or 3
        fields["stage_depths"] = stage_depths(view, "block{}/", "unit{}/")
        if 0 in fields["stage_depths"]:
            return "a stage of the ResNet is missing altogether"
    else:
        fields["in_channels"] = kernel[2]
    return Architecture(family, fields, num_positions=positions[1])


def stage_depths(view, block, unit, first=1):
    """How many units each stage has; 0 for a stage that is missing between others.

    Args:
        view: `FileView`.
        block: what keys of a stage start with, `{}` for its number.
        unit: what follows in keys of a unit, `{}` for its number.
        first: number of the first stage.
    """
    last = max(view.indices(block), default=first - 1)
    if last > 16:
        return (0,)
    return tuple(len(view.indices(block.format(b) + unit)) for b in range(first, last + 1))


def unit_symbols(stage_depths, root):
    """For every unit: its indices, from 1 and from 0; its channels in, in the middle and out."""
    channels = root
    for b, num_units in enumerate(stage_depths, start=1):
        middle = root * 2 ** (b - 1)
        for u in range(1, num_units + 1):
            yield {
                "b": b, "u": u, "b0": b - 1, "u0": u - 1,
                "c": channels, "m": middle, "n": middle, "f": 4 * middle, "s": 3, "t": 3,
            }  # fmt: skip
            channels = 4 * middle


def scopes(architecture):
    """The sets of symbols of each scope."""
    fields = architecture.fields
    hidden, heads, mlp_dim = fields["hidden_size"], fields["num_heads"], fields["mlp_dim"]
    features = hidden * (2 if fields.get("pooling") == "token_patch_mean" else 1)
    rows, columns = fields["patch_size"]
    model = {
        "D": hidden, "M": mlp_dim, "k": heads, "d": hidden // heads,
        "H": mlp_dim * (2 if fields.get("gated_mlp") else 1), "G": fields.get("num_registers", 0),
        "p": rows, "q": columns, "C": fields["in_channels"], "T": architecture.num_positions,
        "R": fields["representation_size"], "F": fields["representation_size"] or features,
        "Y": fields["num_classes"],
    }  # fmt: skip
    stem, units = [], []
    if architecture.family == "hybrid":
        root = int(64 * fields["width_factor"])
        stem = [{"s": 7, "t": 7, "in": fields["in_channels"], "root": root}]
        units = list(unit_symbols(fields["stage_depths"], root))
        model["C"] = units[-1]["f"] if units else root
    blocks = [{**model, "i": i} for i in range(fields["depth"])]
    where = {
        "distillation": fields.get("distillation_token"),
        "registers": fields.get("num_registers"),
        "mask": fields.get("mask_token"),
        "pre_norm": fields.get("pre_norm"),
        "tokens_norm": fields.get("final_norm", "tokens") == "tokens",
        "pooled_norm": fields.get("final_norm") == "pooled",
        "patch_bias": fields.get("patch_bias", True),
        "map": fields.get("pooling") == "attention",
        "class_token": fields["class_token"],
        "representation": fields["representation_size"],
        "head": fields["num_classes"],
        "head_bias": fields["num_classes"] and fields.get("use_head_bias", True),
        "distilled_head": fields["num_classes"] and fields.get("pooling") == "distillation",
    }
    where_in_blocks = {
        "layer_scale": fields.get("layer_scale") is not None,
        "qkv_bias": fields.get("qkv_bias", True),
        "qk_norm": fields.get("qk_norm"),
    }
    return {
        **{scope: [model] if there else [] for scope, there in where.items()},
        **{scope: blocks if there else [] for scope, there in where_in_blocks.items()},
        "never": [],
        "stem": stem,
        "unit": units,
        "projection": [unit for unit in units if unit["u"] == 1],
        "model": [model],
        "block": blocks,
    }


def unsupported(architecture):
    """What the official code could not load, or would compute differently."""
    fields = architecture.fields
    expected = {
        "position_embedding": ("learned",),
        "pooling": ("token", "mean", "none"),
        "gelu": ("tanh",),
        "layer_norm_epsilon": (1e-6,),
        "group_norm_epsilon": (1e-6,),
        "conv_epsilon": (1e-5,),
        "standardization": ("deviation",),
    }
    return [
        f"`{name}` {fields[name]!r} (only {', '.join(map(str, known))})"
        for name, known in expected.items()
        if name in fields and fields[name] not in known
    ]


VIT_JAX = Format(
    name="vit_jax",
    families=("vit", "hybrid"),
    signatures=(
        Signature(
            ("Transformer/posembed_input/pos_embedding",),
            # Old files of big_vision have the same positions and what this format lacks.
            absent=("MAPHead_0/probe", "probe", "Transformer/encoderblock/LayerNorm_0/scale"),
        ),
    ),
    prefixes=("", "params/", "opt/target/"),
    layouts=LAYOUTS,
    rows=ROWS,
    # What a training state holds beside the parameters.
    dropped=(r"opt/(state|step|count)\b", r"opt/\d", r"(step|epoch|accum_step)$", r"state/"),
    architecture=read_architecture,
    scopes=scopes,
    unsupported=unsupported,
)
