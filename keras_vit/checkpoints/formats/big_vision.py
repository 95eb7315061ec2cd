"""`big_vision`: ViT files of google-research/big_vision, old spellings among them.

Symbols: as in `vit_jax`; N patches, L blocks.
"""

import itertools
import math

import numpy as np

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import flax_rows, vit_jax

# What varies from file to file, each independently of the others; the first is today's spelling.
_BLOCKS = {
    "": {"block": "encoderblock_{i}", "stack": ""},
    # Compiled once and run with `scan`: all blocks in one array.
    "scan": {"block": "encoderblock", "stack": "i@L"},
}
_POSITIONS = {
    "": {"positions": "pos_embedding"},
    "transformer": {"positions": "Transformer/pos_embedding"},
    "posembed_input": {"positions": "Transformer/posembed_input/pos_embedding"},
}
_ROWS = {
    "": {"rows": "N"},
    # A first row that is added to the class token; without such a token, it is not used.
    "first_row": {"rows": "N+1"},
}
_POOLING = {"": {"map": "MAPHead_0/"}, "probe": {"map": ""}}

LAYOUTS = {
    "+".join(filter(None, names)) or "today": {k: v for part in parts for k, v in part.items()}
    for choice in itertools.product(
        _BLOCKS.items(), _POSITIONS.items(), _ROWS.items(), _POOLING.items()
    )
    for names, parts in [zip(*choice, strict=True)]
}

_BLOCK = "Transformer/{block}"
_ATTENTION = vit_jax.LINEN["attention"]


ROWS = (
    Row("model", "embedding/kernel", "embedding/kernel", "p q C D"),
    Row("model", "embedding/bias", "embedding/bias", "D"),
    Row("class_token", "cls/token", "cls", "1 1 D"),
    Row("positions", "posembed_input/embedding", "{positions}", "1 {rows} D"),
    *flax_rows.encoder_block(_BLOCK, vit_jax.LINEN, "{stack}"),
    *flax_rows.norm("model", "encoder_norm", "Transformer/encoder_norm", "D"),
    Row("map", "pooling/probe", "{map}probe", "1 1 D"),
    *flax_rows.attention("map", "pooling/attention", f"{{map}}{_ATTENTION}"),
    *flax_rows.norm("map", "pooling/norm", "{map}LayerNorm_0", "D"),
    *flax_rows.mlp("map", "pooling/mlp", "{map}MlpBlock_0"),
    *flax_rows.dense("representation", "pre_logits", "pre_logits", "D", "R"),
    *flax_rows.dense("head", "head", "head", "F", "Y"),
)


def read_architecture(view):
    """The `Architecture` of a file, what it lacks, or None if it is of another layout."""
    stacked = view.layout["stack"] != ""
    axis = int(stacked)
    if stacked:
        blocks = ["Transformer/encoderblock"]
        depth = view.vote(
            *((blocks[0] + key, 0) for key in ("/LayerNorm_0/bias", "/LayerNorm_0/scale"))
        )
    else:
        depth = len(view.indices("Transformer/encoderblock_{}/"))
        blocks = [f"Transformer/encoderblock_{i}" for i in range(depth)]
    if not depth:
        return None
    if depth > vit_jax.MAX_DEPTH:
        return f"{depth} blocks are more than any model has"
    ends = (("embedding/kernel", -1), ("embedding/bias", 0), ("Transformer/encoder_norm/scale", 0))
    evidence = {
        "hidden_size": ("/LayerNorm_0/scale", "/LayerNorm_1/bias"),
        "mlp_dim": ("/MlpBlock_0/Dense_0/bias", "/MlpBlock_0/Dense_1/kernel"),
        "num_heads": (f"/{_ATTENTION}/query/bias", f"/{_ATTENTION}/out/kernel"),
    }
    fields = {
        name: view.vote(
            *((block + key, axis) for block in blocks for key in keys),
            *(ends if name == "hidden_size" else ()),
        )
        for name, keys in evidence.items()
    }
    fields["depth"] = depth
    missing = sorted(name for name, value in fields.items() if not value)
    kernel = view.shape("embedding/kernel")
    if missing or kernel is None or len(kernel) != 4:
        return (
            "too little is left to read the architecture off: "
            f"{', '.join(missing) or 'embedding/kernel (P, Q, C, D)'}"
        )
    positions = view.shape("{positions}")
    if positions is not None and len(positions) != 3:
        return f"the positions have the shape {positions}, expected (1, N, D)"
    class_token = view.shape("cls") is not None
    rows = positions[1] if positions else 0
    if view.layout["rows"] == "N+1":
        rows -= 1
    elif _has_first_row(rows):
        return None
    pooled = view.shape("{map}probe") is not None
    fields |= {
        "patch_size": kernel[:2],
        "in_channels": kernel[2],
        "class_token": class_token,
        "pooling": _pooling(class_token, pooled),
        "position_embedding": "learned" if positions else "sincos2d",
        "representation_size": view.vote(("pre_logits/bias", 0), ("pre_logits/kernel", 1)),
        "num_classes": view.vote(("head/bias", 0), ("head/kernel", 1)) or 0,
    }
    return Architecture("vit", fields, num_positions=rows + class_token if positions else 0)


def _has_first_row(rows):
    """big_vision's rule: one more than a square number of positions is a row for the token."""
    return rows > 1 and math.isqrt(rows - 1) ** 2 == rows - 1


def _pooling(class_token, pooled):
    return "attention" if pooled else "token" if class_token else "mean"


def scopes(architecture):
    """The sets of symbols of each scope."""
    fields = architecture.fields
    num_patches = architecture.num_positions - fields["class_token"]
    found = vit_jax.scopes(architecture)
    (model,) = found["model"]
    model |= {"N": num_patches, "N+1": num_patches + 1}
    blocks = [{**model, "i": i, "L": fields["depth"]} for i in range(fields["depth"])]
    return {
        **found,
        "block": blocks,
        "positions": [model] if fields["position_embedding"] == "learned" else [],
        "map": [model] if fields["pooling"] == "attention" else [],
    }


def to_model(arrays, architecture, layout):
    """Brings the positions to one row for each token: zeros for a class token without one."""
    class_token = architecture.fields.get("class_token")
    changes = layout["rows"] == ("N" if class_token else "N+1")
    if changes and "posembed_input/embedding" in arrays:
        positions = arrays["posembed_input/embedding"]
        if class_token:
            positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
        else:
            positions = positions[:, 1:]
        arrays["posembed_input/embedding"] = positions
    return arrays


def to_table(arrays, architecture, layout):
    """The inverse: the class token's row is added to the token itself, which is the same model."""
    class_token = architecture.fields.get("class_token")
    changes = layout["rows"] == ("N" if class_token else "N+1")
    if changes and "posembed_input/embedding" in arrays:
        positions = np.asarray(arrays["posembed_input/embedding"], np.float32)
        if class_token:
            token, first = np.asarray(arrays["cls/token"], np.float32), positions[:, :1]
            # Adding zero would turn -0 into 0.
            arrays["cls/token"] = np.where(first == 0, token, token + first)
            positions = positions[:, 1:]
        else:
            positions = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
        arrays["posembed_input/embedding"] = positions
    return arrays


def unsupported(architecture):
    """What the official code could not load, or would compute differently."""
    fields = architecture.fields
    natural = _pooling(fields["class_token"], fields.get("pooling") == "attention")
    expected = {
        "position_embedding": ("learned", "sincos2d"),
        "pooling": (natural, "none"),
        "gelu": ("tanh",),
        "layer_norm_epsilon": (1e-6,),
    }
    reasons = [
        f"`{name}` {fields[name]!r} (only {', '.join(map(str, known))})"
        for name, known in expected.items()
        if name in fields and fields[name] not in known
    ]
    patches = architecture.num_positions - fields["class_token"]
    if architecture.num_positions and _has_first_row(patches):
        reasons.append(f"{patches} patches, which its code takes for a square and a class token")
    return reasons


_OLD_POSITIONS = "Transformer/posembed_input/pos_embedding"
_FIRST_BLOCK = "Transformer/encoderblock_0/LayerNorm_0/scale"
_STACKED_BLOCKS = "Transformer/encoderblock/LayerNorm_0/scale"

BIG_VISION = Format(
    name="big_vision",
    families=("vit",),
    signatures=(
        Signature(("pos_embedding", "embedding/kernel")),
        Signature(("Transformer/pos_embedding", "embedding/kernel")),
        # With the old spelling of the positions, what `vit_jax` cannot hold makes the difference.
        Signature((_OLD_POSITIONS, "MAPHead_0/probe")),
        Signature((_OLD_POSITIONS, "probe")),
        Signature((_OLD_POSITIONS, _STACKED_BLOCKS), absent=("MAPHead_0/probe", "probe")),
        # Sine-cosine positions are not in the file.
        *(
            Signature(
                ("embedding/kernel", block),
                absent=(
                    "pos_embedding",
                    "Transformer/pos_embedding",
                    _OLD_POSITIONS,
                    "conv_root/kernel",
                ),
            )
            for block in (_FIRST_BLOCK, _STACKED_BLOCKS)
        ),
    ),
    prefixes=("params/", "", "params/img/", "img/"),
    layouts=LAYOUTS,
    rows=ROWS,
    # What a training state holds beside the parameters, and the other tower of a two-tower model.
    dropped=(r"(opt|chrono|extra)/", r"(params/)?(txt/|t$|b$)"),
    architecture=read_architecture,
    scopes=scopes,
    unsupported=unsupported,
    to_model=to_model,
    to_table=to_table,
    keeps_prefix=True,
)
