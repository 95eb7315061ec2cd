"""`bit` and `bit_paper`: BiT-ResNet files of big_transfer (TensorFlow naming) and of big_vision.

Symbols: c input, m middle and f output channels of a unit, F features, Y classes.
"""

from keras_vit.checkpoints.tables import Architecture, Format, Row, Signature
from keras_vit.checkpoints.vit_jax import stage_depths, unit_symbols

_UNIT = "resnet/block{b}/unit{uu}"
_CONV = "/standardized_conv2d/kernel"
_PAPER_UNIT = "block{b}/unit{uu}"

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

PAPER_ROWS = (
    Row("model", "root_conv/kernel", "root_block/conv_root/kernel", "s t in root"),
    Row("unit", "block{b}_unit{u}/gn1/gamma", _PAPER_UNIT + "/gn1/scale", "c", "{ones} c"),
    Row("unit", "block{b}_unit{u}/gn1/beta", _PAPER_UNIT + "/gn1/bias", "c", "{ones} c"),
    Row("unit", "block{b}_unit{u}/conv1/kernel", _PAPER_UNIT + "/conv1/kernel", "1 1 c m"),
    Row("unit", "block{b}_unit{u}/gn2/gamma", _PAPER_UNIT + "/gn2/scale", "m", "{ones} m"),
    Row("unit", "block{b}_unit{u}/gn2/beta", _PAPER_UNIT + "/gn2/bias", "m", "{ones} m"),
    Row("unit", "block{b}_unit{u}/conv2/kernel", _PAPER_UNIT + "/conv2/kernel", "s t n m"),
    Row("unit", "block{b}_unit{u}/gn3/gamma", _PAPER_UNIT + "/gn3/scale", "m", "{ones} m"),
    Row("unit", "block{b}_unit{u}/gn3/beta", _PAPER_UNIT + "/gn3/bias", "m", "{ones} m"),
    Row("unit", "block{b}_unit{u}/conv3/kernel", _PAPER_UNIT + "/conv3/kernel", "1 1 m f"),
    Row("projection", "block{b}_unit{u}/conv_proj/kernel", _PAPER_UNIT + "/conv_proj/kernel",
        "1 1 c f"),
    Row("model", "norm_pre_head/gamma", "norm-pre-head/scale", "F", "{ones} F"),
    Row("model", "norm_pre_head/beta", "norm-pre-head/bias", "F", "{ones} F"),
    Row("head", "head/kernel", "head/kernel", "F Y"),
    Row("head", "head/bias", "head/bias", "Y"),
)
# fmt: on

# What each format's code does around the root's pooling, whose input may be negative.
PADDINGS = {"bit": "zero", "bit_paper": "infinite"}


def architecture_reader(name, block, root, first_norm, head):
    """The function that reads the `Architecture` of a file, or says what the file lacks.

    Args:
        name: of the format.
        block: key of the stages up to their number, with `{}` for it.
        root: key of the root convolution's kernel.
        first_norm: key of the first normalisation's scale.
        head: key of the head up to its last part.
    """

    def read_architecture(view):
        depths = stage_depths(view, block, "unit{}/")
        width = view.vote((root, -1), (first_norm, -1))
        if not depths or 0 in depths or not width:
            return "too little is left to read the architecture off: a stage or the root is missing"
        fields = {
            "stage_depths": depths,
            "width_factor": width / 64,
            "in_channels": view.vote((root, 2)) or 3,
            "num_classes": view.vote((f"{head}/bias", 0), (f"{head}/kernel", -1)) or 0,
            "root_pool_padding": PADDINGS[name],
        }
        return Architecture("bit", fields)

    return read_architecture


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


def unsupported_by(name):
    """The function that says what the code of a format could not load, or computes differently."""

    def unsupported(architecture):
        expected = {
            "root_pool_padding": PADDINGS[name],
            "group_norm_epsilon": 1e-5,
            "conv_epsilon": 1e-10,
        }
        fields = architecture.fields
        return [
            f"`{field}` {fields[field]!r} (only {known})"
            for field, known in expected.items()
            if field in fields and fields[field] != known
        ]

    return unsupported


BIT = Format(
    name="bit",
    families=("bit",),
    signatures=(Signature(("resnet/root_block" + _CONV,)),),
    prefixes=("",),
    layouts={"tensorflow": {}},
    rows=ROWS,
    dropped=(),
    architecture=architecture_reader(
        "bit",
        block="resnet/block{}/",
        root="resnet/root_block" + _CONV,
        first_norm="resnet/block1/unit01/a/group_norm/gamma",
        head="resnet/head/conv2d",
    ),
    scopes=scopes,
    unsupported=unsupported_by("bit"),
    # TensorFlow numbered the layers of some files through; they are written without numbers.
    respelled=((r"/standardized_conv2d_\d+/", "/standardized_conv2d/"),),
)

BIT_PAPER = Format(
    name="bit_paper",
    families=("bit",),
    signatures=(Signature(("root_block/conv_root/kernel",)),),
    prefixes=("params/", ""),
    layouts={"unsqueezed": {"ones": "1 1 1"}, "squeezed": {"ones": ""}},
    rows=PAPER_ROWS,
    dropped=(r"(opt|chrono|extra)/",),
    architecture=architecture_reader(
        "bit_paper",
        block="block{}/",
        root="root_block/conv_root/kernel",
        first_norm="block1/unit01/gn1/scale",
        head="head",
    ),
    scopes=scopes,
    unsupported=unsupported_by("bit_paper"),
    keeps_prefix=True,
)
