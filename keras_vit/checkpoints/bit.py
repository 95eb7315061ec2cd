"""`bit`: BiT-ResNet files of google-research/big_transfer, in their TensorFlow naming.

Symbols: c input, m middle and f output channels of a unit, F features, Y classes.
"""

from keras_vit.checkpoints.rules import Architecture, Format, Row
from keras_vit.checkpoints.vit_jax import stage_depths, unit_symbols

_UNIT = "resnet/block{b}/unit{uu}"
_CONV = "/standardized_conv2d/kernel"

# fmt: off
ROWS = (
    Row("model", "root_conv/kernel", "resnet/root_block" + _CONV, "s t in root"),
    Row("unit", "block{b}_unit{u}/gn1/gamma", _UNIT + "/a/group_norm/gamma", "c"),
    Row("unit", "block{b}_unit{u}/gn1/beta", _UNIT + "/a/group_norm/beta", "c"),
    Row("unit", "block{b}_unit{u}/conv1/kernel", _UNIT + "/a" + _CONV, "1 1 c m"),
    Row("unit", "block{b}_unit{u}/gn2/gamma", _UNIT + "/b/group_norm/gamma", "m"),
    Row("unit", "block{b}_unit{u}/gn2/beta", _UNIT + "/b/group_norm/beta", "m"),
    Row("unit", "block{b}_unit{u}/conv2/kernel", _UNIT + "/b" + _CONV, "s t n m"),
    Row("unit", "block{b}_unit{u}/gn3/gamma", _UNIT + "/c/group_norm/gamma", "m"),
    Row("unit", "block{b}_unit{u}/gn3/beta", _UNIT + "/c/group_norm/beta", "m"),
    Row("unit", "block{b}_unit{u}/conv3/kernel", _UNIT + "/c" + _CONV, "1 1 m f"),
    Row("projection", "block{b}_unit{u}/conv_proj/kernel", _UNIT + "/a/proj" + _CONV, "1 1 c f"),
    Row("model", "norm_pre_head/gamma", "resnet/group_norm/gamma", "F"),
    Row("model", "norm_pre_head/beta", "resnet/group_norm/beta", "F"),
    Row("head", "head/kernel", "resnet/head/conv2d/kernel", "F Y", "1 1 F Y"),
    Row("head", "head/bias", "resnet/head/conv2d/bias", "Y"),
)
# fmt: on


def read_architecture(view):
    """The `Architecture` of a file, or a sentence that says what it lacks."""
    depths = stage_depths(view, "resnet/block{}/", "unit{}/")
    kernel = "resnet/root_block" + _CONV
    root = view.vote((kernel, -1), ("resnet/block1/unit01/a/group_norm/gamma", 0))
    if not depths or 0 in depths or not root:
        return "too little is left to read the architecture off: a stage or the root is missing"
    head = (("resnet/head/conv2d/bias", 0), ("resnet/head/conv2d/kernel", -1))
    return Architecture(
        "bit",
        {
            "stage_depths": depths,
            "width_factor": root / 64,
            "in_channels": view.vote((kernel, 2)) or 3,
            "num_classes": view.vote(*head) or 0,
        },
    )


def scopes(architecture):
    """The sets of symbols of each scope."""
    fields = architecture.fields
    root = int(64 * fields["width_factor"])
    units = [
        {**unit, "uu": f"{unit['u']:02d}"} for unit in unit_symbols(fields["stage_depths"], root)
    ]
    model = {
        "s": 7, "t": 7, "in": fields["in_channels"], "root": root, "F": units[-1]["f"],
        "Y": fields["num_classes"],
    }  # fmt: skip
    return {
        "model": [model],
        "unit": units,
        "projection": [unit for unit in units if unit["u"] == 1],
        "head": [model] if fields["num_classes"] else [],
    }


def unsupported(architecture):
    """What the official code could not load."""
    return (
        [] if architecture.family == "bit" else [f"a model of the family {architecture.family!r}"]
    )


BIT = Format(
    name="bit",
    signature="resnet/root_block" + _CONV,
    prefixes=("",),
    layouts={"tensorflow": {}},
    rows=ROWS,
    dropped=(),
    architecture=read_architecture,
    scopes=scopes,
    unsupported=unsupported,
)
