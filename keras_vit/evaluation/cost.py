"""What a model costs, from its configuration alone: parameters, and multiply-adds for one image.

The convention: a multiply-add is one multiplication with its addition, in the products that have
weights (convolutions, dense layers) and in the two of attention.  Norms, activations, softmax and
pooling are left out; they are about one percent.  Most papers call this number FLOPs: 17.6 billion
for ViT-B/16 at 224 px (arXiv:2012.12877, Table 5), where others count two for each.

Shapes: H W pixels, h w a grid, T tokens, D hidden, M mlp_dim, R representation, Y classes; of a
ResNet's unit, c channels in, m in the middle, 4 m out.
"""

import math

_ROOT_KERNEL = 7
_UNIT_KERNEL = 3


def count_parameters(config):
    """The number of weights of a model, its head among them.

    Args:
        config: configuration of one of the package's models.

    Returns:
        An integer; what `model.count_params()` of the built model gives.
    """
    total = 0
    if hasattr(config, "stage_depths"):
        is_hybrid = hasattr(config, "hidden_size")
        total += sum(
            _unit_kernels(c, m, projects) + _unit_norms(c, m, projects, is_hybrid)
            for c, m, projects in _units(config)
        )
        root = config.root_channels
        total += _ROOT_KERNEL**2 * config.in_channels * root
        total += 2 * (root if is_hybrid else _channels(config))
    if not hasattr(config, "hidden_size"):
        return total + _dense(_channels(config), config.num_classes)
    hidden, mlp = config.hidden_size, config.mlp_dim
    total += math.prod(config.patch_size) * _patch_channels(config) * hidden + hidden
    total += config.class_token * hidden
    if config.position_embedding == "learned":
        total += _num_tokens(config) * hidden
    total += config.depth * (2 * 2 * hidden + _attention(hidden) + _mlp(hidden, mlp)) + 2 * hidden
    if config.pooling == "attention":
        total += hidden + _attention(hidden) + 2 * hidden + _mlp(hidden, mlp)
    features = hidden
    if config.representation_size is not None:
        features = config.representation_size
        total += _dense(hidden, features)
    return total + _dense(features, config.num_classes)


def count_multiply_adds(config):
    """The multiply-adds of one image's forward pass, in the convention of this module.

    Args:
        config: configuration of one of the package's models, at its `image_size`.

    Returns:
        An integer.
    """
    total = 0
    size = config.image_size
    if hasattr(config, "stage_depths"):
        size = _halved(size)
        total += math.prod(size) * _ROOT_KERNEL**2 * config.in_channels * config.root_channels
        size = _halved(size)
        first_units = _first_units(config.stage_depths)
        for i, (c, m, projects) in enumerate(_units(config)):
            out = _halved(size) if i in first_units else size
            # The stride is that of the 3 x 3 convolution, and of the projection.
            total += math.prod(size) * c * m
            total += math.prod(out) * (_UNIT_KERNEL**2 * m * m + m * 4 * m + projects * c * 4 * m)
            size = out
    if not hasattr(config, "hidden_size"):
        return total + _channels(config) * config.num_classes
    hidden, mlp, tokens = config.hidden_size, config.mlp_dim, _num_tokens(config)
    patch = math.prod(config.patch_size) * _patch_channels(config)
    total += math.prod(config.grid) * patch * hidden
    total += config.depth * tokens * (4 * hidden**2 + 2 * tokens * hidden + 2 * hidden * mlp)
    outputs = tokens if config.pooling == "none" else 1
    if config.pooling == "attention":
        # One query; keys and values of all tokens.
        total += (2 + 2 * tokens) * hidden**2 + 2 * tokens * hidden + 2 * hidden * mlp
    features = config.representation_size or hidden
    total += outputs * (0 if config.representation_size is None else hidden * features)
    return total + outputs * features * config.num_classes


def _dense(inputs, outputs):
    return (inputs + 1) * outputs


def _attention(hidden):
    return 4 * _dense(hidden, hidden)


def _mlp(hidden, mlp):
    return _dense(hidden, mlp) + _dense(mlp, hidden)


def _num_tokens(config):
    return math.prod(config.grid) + config.class_token


def _patch_channels(config):
    return _channels(config) if hasattr(config, "stage_depths") else config.in_channels


def _channels(config):
    """What comes out of the ResNet part: of its last stage, or of the stem."""
    stages = len(config.stage_depths)
    return 4 * config.root_channels * 2 ** (stages - 1) if stages else config.root_channels


def _units(config):
    """(c, m, whether it has a projection) of every unit, in order."""
    channels = config.root_channels
    for b, num_units in enumerate(config.stage_depths):
        middle = config.root_channels * 2**b
        for u in range(num_units):
            yield channels, middle, u == 0
            channels = 4 * middle


def _first_units(stage_depths):
    """The indices of the units that halve the resolution: the first of each stage but the first."""
    return {sum(stage_depths[:b]) for b in range(1, len(stage_depths))}


def _unit_kernels(c, m, projects):
    return c * m + _UNIT_KERNEL**2 * m * m + m * 4 * m + projects * c * 4 * m


def _unit_norms(c, m, projects, is_hybrid):
    # A hybrid's norms follow its convolutions, those of BiT precede them.
    return 2 * (m + m + 4 * m + projects * 4 * m) if is_hybrid else 2 * (c + m + m)


def _halved(size):
    return tuple(-(-side // 2) for side in size)
