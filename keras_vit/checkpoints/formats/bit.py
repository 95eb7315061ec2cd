"""`bit` and `bit_paper`: BiT-ResNet files of big_transfer (TensorFlow naming) and of big_vision.

Symbols: c input, m middle and f output channels of a unit, F features, Y classes.
"""

from keras_vit.checkpoints.format import Architecture, Format, Row, Signature
from keras_vit.checkpoints.formats import flax_rows
from keras_vit.checkpoints.formats.vit_jax import stage_depths, unit_symbols

_UNIT = "resnet/block{b}/unit{uu}"
_CONV = "/standardized_conv2d"
_PAPER_UNIT = "block{b}/unit{uu}"
_ROOT = f"resnet/root_block{_CONV}/kernel"
# Norms precede their convolutions.
_NORM_SIZES = ("c", "m", "m")

ROWS = (
    Row("model", "root_conv/kernel", _ROOT, "s t in root"),
    *flax_rows.unit(
        [f"{_UNIT}/{part}{_CONV}" for part in "abc"],
        [f"{_UNIT}/{part}/group_norm" for part in "abc"],
        _NORM_SIZES,
        leaves=flax_rows.GAMMA_AND_BETA,
    ),
    *flax_rows.projection(f"{_UNIT}/a/proj{_CONV}"),
    *flax_rows.norm(
        "model", "norm_pre_head", "resnet/group_norm", "F", leaves=flax_rows.GAMMA_AND_BETA
    ),
    Row("head", "head/kernel", "resnet/head/conv2d/kernel", "F Y", "1 1 F Y"),
    Row("head", "head/bias", "resnet/head/conv2d/bias", "Y"),
)

PAPER_ROWS = (
    Row("model", "root_conv/kernel", "root_block/conv_root/kernel", "s t in root"),
    *flax_rows.unit(
        [f"{_PAPER_UNIT}/conv{n}" for n in (1, 2, 3)],
        [f"{_PAPER_UNIT}/gn{n}" for n in (1, 2, 3)],
        _NORM_SIZES,
        "{ones}",
    ),
    *flax_rows.projection(f"{_PAPER_UNIT}/conv_proj"),
    *flax_rows.norm("model", "norm_pre_head", "norm-pre-head", "F", "{ones}"),
    *flax_rows.dense("head", "head", "head", "F", "Y"),
)

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
    signatures=(Signature((_ROOT,)),),
    prefixes=("",),
    layouts={"tensorflow": {}},
    rows=ROWS,
    dropped=(),
    architecture=architecture_reader(
        "bit",
        block="resnet/block{}/",
        root=_ROOT,
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
