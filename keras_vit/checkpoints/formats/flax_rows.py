"""What the formats of JAX code share: how its layers are stored, and their order in a model.

Symbols: as in `vit_jax`.  `leading` stands for axes that only their arrays have.
"""

from keras_vit.checkpoints.format import Row

# A norm's scale and offset are called so in Flax, and so in TensorFlow.
SCALE_AND_BIAS = ("scale", "bias")
GAMMA_AND_BETA = ("gamma", "beta")
# The kernels of a ResNet's unit.
UNIT_KERNELS = ("1 1 c m", "s t n m", "1 1 m f")
UNIT = "block{b}_unit{u}"


def norm(scope, ours, theirs, size, leading="", leaves=SCALE_AND_BIAS):
    """The rows of a layer or group norm."""
    scale, offset = leaves
    return (
        Row(scope, f"{ours}/gamma", f"{theirs}/{scale}", size, f"{leading} {size}"),
        Row(scope, f"{ours}/beta", f"{theirs}/{offset}", size, f"{leading} {size}"),
    )


def dense(scope, ours, theirs, inputs, outputs, leading=""):
    """The rows of a dense layer."""
    kernel = f"{inputs} {outputs}"
    return (
        Row(scope, f"{ours}/kernel", f"{theirs}/kernel", kernel, f"{leading} {kernel}"),
        Row(scope, f"{ours}/bias", f"{theirs}/bias", outputs, f"{leading} {outputs}"),
    )


def attention(scope, ours, theirs, leading=""):
    """The rows of multi-head attention."""
    return tuple(
        Row(scope, f"{ours}/{name}_{leaf}", f"{theirs}/{name}/{leaf}", shape, f"{leading} {shape}")
        for name in ("query", "key", "value", "out")
        for leaf, shape in (
            (("kernel", "k d D"), ("bias", "D"))
            if name == "out"
            else (("kernel", "D k d"), ("bias", "k d"))
        )
    )


def mlp(scope, ours, theirs, leading=""):
    """The rows of the two dense layers of an MLP."""
    return (
        *dense(scope, f"{ours}/dense_1", f"{theirs}/Dense_0", "D", "M", leading),
        *dense(scope, f"{ours}/dense_2", f"{theirs}/Dense_1", "M", "D", leading),
    )


def encoder_block(block, names, leading=""):
    """The rows of one encoder block.

    Args:
        block: their key of it.
        names: their names of its parts: `norm_1`, `attention`, `norm_2`, `mlp`.
        leading: what their arrays have before ours.
    """
    ours = "encoderblock_{i}"
    return (
        *norm("block", f"{ours}/norm_1", f"{block}/{names['norm_1']}", "D", leading),
        *attention("block", f"{ours}/attention", f"{block}/{names['attention']}", leading),
        *norm("block", f"{ours}/norm_2", f"{block}/{names['norm_2']}", "D", leading),
        *mlp("block", f"{ours}/mlp", f"{block}/{names['mlp']}", leading),
    )


def unit(convs, norms, norm_sizes, leading="", leaves=SCALE_AND_BIAS):
    """The rows of a ResNet's unit without its projection.

    Args:
        convs: keys of its three convolutions.
        norms: keys of its three group norms.
        norm_sizes: of those.
        leading: what their norms' arrays have before ours.
        leaves: their names of a norm's arrays.
    """
    rows = []
    for n, kernel in enumerate(UNIT_KERNELS):
        rows.append(Row("unit", f"{UNIT}/conv{n + 1}/kernel", f"{convs[n]}/kernel", kernel))
        ours = f"{UNIT}/gn{n + 1}"
        rows += norm("unit", ours, norms[n], norm_sizes[n], leading, leaves)
    return tuple(rows)


def projection(theirs):
    """The row of a unit's projection."""
    return (Row("projection", f"{UNIT}/conv_proj/kernel", f"{theirs}/kernel", "1 1 c f"),)
