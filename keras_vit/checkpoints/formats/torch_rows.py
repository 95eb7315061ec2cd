"""What the formats of PyTorch libraries share: how layers are stored, and the ResNet parts.

A `Linear` weight is the transpose of ours, a convolution's is (out, in, height, width).  Both
libraries have the ResNet of Ross Wightman's port, whose epsilons differ from the official ones.
"""

import math

from keras_vit.checkpoints.format import Row
from keras_vit.checkpoints.formats import bit, vit_jax

# In both: epsilon of group norms, and what is added to the variance of the kernels.
RESNET_NUMBERS = {"group_norm_epsilon": 1e-5, "conv_epsilon": 1e-8}
HYBRID_NUMBERS = {**RESNET_NUMBERS, "standardization": "variance"}
BIT_NUMBERS = {**RESNET_NUMBERS, "root_pool_padding": "zero"}


# What other libraries put before all names of a model that they wrap.
WRAPPERS = (
    "", "module.", "model.", "backbone.", "_orig_mod.", "model.module.", "module.model.",
    "module._orig_mod.", "_orig_mod.module.", "encoder.", "student.", "teacher.",
    "module.backbone.", "teacher.backbone.", "student.backbone.", "state_dict.", "model.backbone.",
    "model._orig_mod.", "_orig_mod.model.", "net.", "network.", "net._orig_mod.", "trunk.",
    "visual.trunk.",
)  # fmt: skip


def norm(scope, ours, theirs, size):
    """The rows of a layer or group norm."""
    return (
        Row(scope, f"{ours}/gamma", f"{theirs}.weight", size),
        Row(scope, f"{ours}/beta", f"{theirs}.bias", size),
    )


def dense(scope, ours, theirs, inputs, outputs):
    """The rows of a `Linear` layer."""
    shape, theirs_shape = f"{inputs} {outputs}", f"{outputs} {inputs}"
    return (
        Row(scope, f"{ours}/kernel", f"{theirs}.weight", shape, theirs_shape),
        Row(scope, f"{ours}/bias", f"{theirs}.bias", outputs),
    )


def attention(scope, ours, theirs, names, bias_scope=None):
    """The rows of an attention whose projections are matrices of their own.

    Args:
        scope: Of the kernels.
        ours: Path of our attention.
        theirs: What their keys start with.
        names: Theirs of query, key, value and output.
        bias_scope: Scope of the biases of query, key and value; None for `scope`.
    """
    rows = []
    for ours_name, name in zip(("query", "key", "value"), names[:3], strict=True):
        kernel, bias = f"{ours}/{ours_name}_kernel", f"{ours}/{ours_name}_bias"
        rows.append(Row(scope, kernel, f"{theirs}.{name}.weight", "D k d", "k*d D"))
        rows.append(Row(bias_scope or scope, bias, f"{theirs}.{name}.bias", "k d", "k*d"))
    return (*rows, *attention_output(scope, ours, f"{theirs}.{names[3]}"))


def fused_attention(scope, ours, theirs_kernel, theirs_bias, names, bias_scope=None):
    """The rows of projections that lie in one matrix, in the order of `names`."""
    rows = []
    for part, name in enumerate(names):
        place = f"{part}@{len(names)}*k*d"
        rows.append(Row(scope, f"{ours}/{name}_kernel", theirs_kernel, "D k d", f"{place} D"))
        rows.append(Row(bias_scope or scope, f"{ours}/{name}_bias", theirs_bias, "k d", place))
    return tuple(rows)


def attention_output(scope, ours, theirs):
    """The rows of an attention's output projection."""
    return (
        Row(scope, f"{ours}/out_kernel", f"{theirs}.weight", "k d D", "D k*d"),
        Row(scope, f"{ours}/out_bias", f"{theirs}.bias", "D"),
    )


def conv(scope, ours, theirs, shape):
    """The row of a convolution's kernel, whose shape is (height, width, in, out)."""
    height, width, inputs, outputs = shape.split()
    theirs_shape = f"{outputs} {inputs} {height} {width}"
    return (Row(scope, f"{ours}/kernel", f"{theirs}.weight", shape, theirs_shape),)


def hybrid_rows(stem_conv, stem_norm, unit):
    """The ResNet of a hybrid: norms follow their convolutions, the projection has one too."""
    ours = "block{b}_unit{u}"
    return (
        *conv("stem", "conv_root", stem_conv, "s t in root"),
        *norm("stem", "gn_root", stem_norm, "root"),
        *conv("unit", f"{ours}/conv1", f"{unit}.conv1", "1 1 c m"),
        *norm("unit", f"{ours}/gn1", f"{unit}.norm1", "m"),
        *conv("unit", f"{ours}/conv2", f"{unit}.conv2", "s t n m"),
        *norm("unit", f"{ours}/gn2", f"{unit}.norm2", "m"),
        *conv("unit", f"{ours}/conv3", f"{unit}.conv3", "1 1 m f"),
        *norm("unit", f"{ours}/gn3", f"{unit}.norm3", "f"),
        *conv("projection", f"{ours}/conv_proj", f"{unit}.downsample.conv", "1 1 c f"),
        *norm("projection", f"{ours}/gn_proj", f"{unit}.downsample.norm", "f"),
    )


def bit_rows(stem_conv, unit, last_norm):
    """BiT without its head: norms precede their convolutions, the projection has none."""
    ours = "block{b}_unit{u}"
    return (
        *conv("bit_model", "root_conv", stem_conv, "s t in root"),
        *norm("bit_unit", f"{ours}/gn1", f"{unit}.norm1", "c"),
        *conv("bit_unit", f"{ours}/conv1", f"{unit}.conv1", "1 1 c m"),
        *norm("bit_unit", f"{ours}/gn2", f"{unit}.norm2", "m"),
        *conv("bit_unit", f"{ours}/conv2", f"{unit}.conv2", "s t n m"),
        *norm("bit_unit", f"{ours}/gn3", f"{unit}.norm3", "m"),
        *conv("bit_unit", f"{ours}/conv3", f"{unit}.conv3", "1 1 m f"),
        *conv("bit_projection", f"{ours}/conv_proj", f"{unit}.downsample.conv", "1 1 c f"),
        *norm("bit_model", "norm_pre_head", last_norm, "F"),
    )


def resnet_fields(view, stem_conv, stages, unit, numbers):
    """The fields of the ResNet part of a hybrid or a BiT, or a sentence that says what it lacks."""
    root = view.vote((f"{stem_conv}.weight", 0))
    depths = vit_jax.stage_depths(view, stages, unit, first=0)
    if not root or 0 in depths:
        return "the stem or a stage of the ResNet is missing altogether"
    return {
        "stage_depths": depths,
        "width_factor": root / 64,
        "in_channels": view.vote((f"{stem_conv}.weight", 1)) or 3,
        **numbers,
    }


def scopes(rows):
    """The function that gives the sets of symbols of each scope of a table for any family."""
    # A layout chooses between the last two.
    names = {*(row.scope for row in rows), "mask", "never"}

    def scopes_of(architecture):
        found = dict.fromkeys(names, ())
        if architecture.family == "bit":
            return found | {f"bit_{k}": v for k, v in bit.scopes(architecture).items()}
        symbols = vit_jax.scopes(architecture)
        (model,) = symbols["model"]
        patches = architecture.num_positions - architecture.num_leading_positions
        model |= {"N": patches}
        # Without stages, timm's stem is the backbone itself.
        inner = "stem." if architecture.fields.get("stage_depths") else ""
        symbols["stem"] = [{**stem, "stem": inner} for stem in symbols["stem"]]
        return found | symbols

    return scopes_of


def grid_of(image_size, cell, num_patches):
    """(h, w) of an image of the size that a `config.json` tells, if it has as many patches.

    Args:
        image_size: a number, two, or anything else that the file says.
        cell: (height, width) of a patch in pixels.
        num_patches: number of patches.

    >>> grid_of([16, 32], (8, 8), 8), grid_of(16, (8, 8), 5)
    ((2, 4), None)
    """
    if min(cell) < 1:
        return None
    sides = [image_size] * 2 if isinstance(image_size, int) else image_size
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    if not all(type(side) is int for side in sides):
        return None
    grid = tuple(-(-side // size) for side, size in zip(sides, cell, strict=True))
    return grid if min(grid) > 0 and math.prod(grid) == num_patches else None


def patches_of(image_size, patch_size, num_patches):
    """The grid of a plain ViT's image, and the fields of one whose last pixels fill no patch.

    Args:
        image_size: as in `grid_of`.
        patch_size: (height, width) in pixels.
        num_patches: number of patches.

    >>> patches_of(16, (8, 8), 4), patches_of(20, (8, 8), 4)
    (((2, 2), {}), ((2, 2), {'image_size': (20, 20), 'partial_patches': True}))
    """
    sides = [image_size] * 2 if type(image_size) is int else image_size
    if not isinstance(sides, list | tuple) or not all(type(side) is int for side in sides):
        return None, {}
    if len(sides) != 2 or min(patch_size) < 1:
        return None, {}
    pairs = list(zip(sides, patch_size, strict=True))
    grid = grid_of([side - side % patch for side, patch in pairs], patch_size, num_patches)
    if grid is None or all(side % patch == 0 for side, patch in pairs):
        return grid, {}
    return grid, {"image_size": tuple(sides), "partial_patches": True}


def gelu_of(config, name, known):
    """Our name of the activation that a `config.json` tells, or None if it is not a known one.

    Args:
        config: the object with the field.
        name: of the field; without it, the activation is `"gelu"`.
        known: their name -> ours.
    """
    value = config.get(name, "gelu")
    return known.get(value) if isinstance(value, str) else None


def contradictions(config, shown):
    """Where a `config.json` says something else than the arrays do, as a list of sentences.

    Args:
        config: the object; what it does not say is not compared.
        shown: its field -> what the arrays show.
    """
    found = []
    for name, value in shown.items():
        said = config.get(name)
        if name == "patch_size" and type(said) is int:
            said = (said, said)
        said = tuple(said) if isinstance(said, list) else said
        if said is not None and (said != value or type(said) is bool is not type(value)):
            found.append(f"config.json says `{name}` {said!r:.100}, the arrays say {value!r}")
    return found


def heads_of(config, name, hidden, default=None):
    """The number of heads that a `config.json` tells, or a sentence."""
    heads = config.get(name, default if config.get("model_type") else None)
    if type(heads) is int and heads >= 1 and hidden % heads == 0:
        return heads
    return (
        "no array tells the number of heads: the config.json that belongs to the file must be "
        f"beside it, with `{name}` that divide {hidden}. Received: {heads!r:.100}"
    )


def epsilon_of(config, default):
    """`layer_norm_eps` of a `config.json`, or a sentence."""
    epsilon = config.get("layer_norm_eps", default)
    if isinstance(epsilon, float) and 0 <= epsilon < 1:
        return epsilon
    return f"`layer_norm_eps` must be a small number. Received: {epsilon!r:.100}"


def differences(architecture, expected):
    """Which fields are not what a format's code computes: a list of reasons.

    Args:
        architecture: `Architecture` of a model.
        expected: field -> the one value, or a tuple of several, that the format can hold.
    """
    reasons = []
    for field, known in expected.items():
        known = known if isinstance(known, tuple) else (known,)
        value = architecture.fields.get(field, known[0])
        if value not in known:
            reasons.append(f"`{field}` {value!r} (only {', '.join(map(str, known))})")
    return reasons
