"""The named models, as tables: name -> configuration at 224 px with 1,000 classes."""

import difflib
import fnmatch
import re

from keras_vit.models.fields import replace_fields
from keras_vit.models.resnet_configs import (
    AxialResNetConfig,
    BiTResNetConfig,
    HybridVisionTransformerConfig,
)
from keras_vit.models.vit_config import VisionTransformerConfig

# Table 1 of arXiv:2010.11929v2 (B, L, H); arXiv:2106.10270, section 3.1 (Ti, S).
#       hidden_size, mlp_dim, num_heads, depth
ENCODERS = {
    "Ti": (192, 768, 3, 12),
    "S": (384, 1536, 6, 12),
    "B": (768, 3072, 12, 12),
    "L": (1024, 4096, 16, 24),
    "H": (1280, 5120, 16, 32),
}

PATCH_SIZES = (8, 14, 16, 32)

# For images of 28 to 64 px, such as Fashion-MNIST's.
MINI = {
    "patch_size": 4,
    "hidden_size": 96,
    "mlp_dim": 192,
    "num_heads": 4,
    "depth": 4,
    "class_token": False,
    "pooling": "mean",
}

# The official code's configurations of these models train with dropout; the others with none.
DROPOUTS = {"ViT-L/16": 0.1, "ViT-H/14": 0.1, "R50+ViT-B/16": 0.1, "R50+ViT-L/32": 0.1}

# `stage_depths`, patch size on the feature map.  "/32" is the output of stage 4; for "/16" stage 4
# is left out and its units join stage 3 (arXiv:2010.11929v2, section 4.1).  R+ViT-Ti/16 has the
# stem alone, so its patches cover 32 pixels in spite of its name.
HYBRIDS = {
    "R+ViT-Ti/16": ((), 8),
    "R26+ViT-S/32": ((2, 2, 2, 2), 1),
    "R26+ViT-B/32": ((2, 2, 2, 2), 1),
    "R50+ViT-B/16": ((3, 4, 9), 1),
    "R50+ViT-B/32": ((3, 4, 6, 3), 1),
    "R50+ViT-L/16": ((3, 4, 9), 1),
    "R50+ViT-L/32": ((3, 4, 6, 3), 1),
}

# arXiv:1912.11370, section 3.2; R200 of arXiv:2010.11929v2, Table 6.
RESNETS = {
    "R50": (3, 4, 6, 3),
    "R101": (3, 4, 23, 3),
    "R152": (3, 8, 36, 3),
    "R200": (3, 24, 36, 3),
}

WIDTH_FACTORS = (1, 2, 3, 4)

# Mean pooling without class token: the models of arXiv:2203.08065 in the official repository.
GAP_MODELS = ("ViT-S/32", "ViT-S/16", "ViT-B/32", "ViT-B/16")

# D.6 of arXiv:2010.11929v2; no token but the patches, and 2-D positions, as in scenic's code.
AXIAL_MODELS = ("ViT-B/32", "ViT-B/16")
AXIAL = {
    "axial_attention": True,
    "class_token": False,
    "pooling": "mean",
    "position_embedding": "learned2d",
}


def _encoder_fields(name):
    hidden_size, mlp_dim, num_heads, depth = ENCODERS[re.search(r"ViT-(\w+)/", name).group(1)]
    return {
        "hidden_size": hidden_size,
        "mlp_dim": mlp_dim,
        "num_heads": num_heads,
        "depth": depth,
        "dropout": DROPOUTS.get(name, 0.0),
    }


def _presets():
    presets = {"ViT-mini/4": VisionTransformerConfig(**MINI)}
    for size in ENCODERS:
        for patch_size in PATCH_SIZES:
            name = f"ViT-{size}/{patch_size}"
            presets[name] = VisionTransformerConfig(patch_size=patch_size, **_encoder_fields(name))
    for name in GAP_MODELS:
        presets[f"{name}-gap-norep"] = replace_fields(
            presets[name], {"class_token": False, "pooling": "mean"}
        )
    for name, (stage_depths, patch_size) in HYBRIDS.items():
        presets[name] = HybridVisionTransformerConfig(
            stage_depths=stage_depths, patch_size=patch_size, **_encoder_fields(name)
        )
    for name, stage_depths in RESNETS.items():
        for width_factor in WIDTH_FACTORS:
            presets[f"BiT-{name}x{width_factor}"] = BiTResNetConfig(
                stage_depths=stage_depths, width_factor=width_factor
            )
    for name in AXIAL_MODELS:
        presets[f"Axial-{name}"] = replace_fields(presets[name], AXIAL)
    presets["AxialResNet50"] = AxialResNetConfig(stage_depths=RESNETS["R50"])
    return presets


PRESETS = _presets()


def list_models(pattern="*"):
    """Names of the models that `create_model` makes, in natural order.

    Args:
        pattern: shell-style wildcard.

    >>> list_models("R50*")
    ['R50+ViT-B/16', 'R50+ViT-B/32', 'R50+ViT-L/16', 'R50+ViT-L/32']
    """
    return [name for name in PRESETS if fnmatch.fnmatchcase(name, pattern)]


def get_preset(name):
    """The configuration of a named model.

    The spellings of the official code (`ViT-B_16`) and of the paper's tables (`ResNet50x1`,
    `R50x1`) are understood as well.

    Raises:
        TypeError: for what is no text.
        ValueError: for an unknown name; lists the close ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"a model's name must be text. Received: {type(name).__name__}")
    spelling = re.sub(r"^(BiT-)?(ResNet|R)(?=\d+x\d)", "BiT-R", name.replace("_", "/"))
    if spelling not in PRESETS:
        close = difflib.get_close_matches(spelling, PRESETS, n=4, cutoff=0.5)
        hint = f"Close: {', '.join(close)}. " if close else ""
        raise ValueError(
            f"there is no model of this name. Received: {name!r}. {hint}"
            "`list_models()` has all of them."
        )
    return PRESETS[spelling]
