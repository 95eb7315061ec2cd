"""What a model costs, from its configuration alone: parameters, and multiply-adds for one image.

The convention: a multiply-add is one multiplication with its addition, in the products that have
weights (convolutions, dense layers) and in the two of attention.  Norms, activations, softmax and
pooling are left out; they are about one percent.  Most papers call this number FLOPs: 17.6 billion
for ViT-B/16 at 224 px (arXiv:2012.12877, Table 5), where others count two for each.

Table 6 of arXiv:2010.11929v2 counts the FLOPs of a pre-training: two for each multiply-add, forward
once and backward twice (`pretraining_exaflops`).  For ResNets it leaves out the products of kernels
with the padding around an image, as XLA's cost analysis does.

Shapes: H W pixels, h w a grid, T tokens, D hidden, M mlp_dim, R representation, Y classes; of a
ResNet's unit, c channels in, m in the middle, 4 m out.
"""

import math

from keras_vit.models.resnet_configs import AxialResNetConfig
from keras_vit.models.vit_config import RELATIVE

_ROOT_KERNEL = 7
_UNIT_KERNEL = 3


def count_parameters(config):
    """The number of weights of a model, its head among them.

    Args:
        config: configuration of one of the package's models.

    Returns:
        An integer; what `model.count_params()` of the built model gives.
    """
    if isinstance(config, AxialResNetConfig):
        return _axial_resnet(config)[0]
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
    total += math.prod(config.patch_size) * _patch_channels(config) * hidden
    total += (config.patch_bias + config.num_leading_tokens + config.mask_token) * hidden
    total += _positions(config)
    block = 2 * 2 * hidden + _attention(hidden) + _mlp(hidden, mlp)
    if not config.qkv_bias:
        block -= 3 * hidden
    if config.qk_norm:
        block += 4 * (hidden // config.num_heads)
    if config.gated_mlp:
        block += _dense(hidden, mlp)
    if config.layer_scale is not None:
        block += 2 * hidden
    total += config.depth * (1 + config.axial_attention) * block
    total += 2 * hidden * (config.pre_norm + (config.final_norm != "none"))
    if config.pooling == "attention":
        total += hidden + _attention(hidden) + 2 * hidden + _mlp(hidden, mlp)
    features = hidden
    if config.representation_size is not None:
        features = config.representation_size
        total += _dense(hidden, features)
    if config.pooling == "token_patch_mean":
        features += hidden
    heads = 2 if config.pooling == "distillation" else 1
    bias = 0 if config.use_head_bias else config.num_classes
    return total + heads * (_dense(features, config.num_classes) - bias)


def count_multiply_adds(config, *, inside_image=False):
    """The multiply-adds of one image's forward pass, in the convention of this module.

    Args:
        config: configuration of one of the package's models, at its `image_size`.
        inside_image: whether the products of convolutions with the padding are left out.

    Returns:
        An integer.
    """
    if isinstance(config, AxialResNetConfig):
        return _axial_resnet(config, inside_image)[1]
    total = 0
    size = config.image_size
    if hasattr(config, "stage_depths"):
        is_hybrid = hasattr(config, "hidden_size")
        taps = _taps_inside if inside_image else _taps
        total += taps(size, _ROOT_KERNEL, 2, is_hybrid) * config.in_channels * config.root_channels
        size = _halved(_halved(size))
        first_units = _first_units(config.stage_depths)
        for i, (c, m, projects) in enumerate(_units(config)):
            stride = 2 if i in first_units else 1
            out = _halved(size) if stride == 2 else size
            # The stride is that of the 3 x 3 convolution, and of the projection.
            total += math.prod(size) * c * m
            total += taps(size, _UNIT_KERNEL, stride, is_hybrid) * m * m
            total += math.prod(out) * (m * 4 * m + projects * c * 4 * m)
            size = out
    if not hasattr(config, "hidden_size"):
        return total + _channels(config) * config.num_classes
    hidden, mlp, tokens = config.hidden_size, config.mlp_dim, _num_tokens(config)
    patch = math.prod(config.patch_size) * _patch_channels(config)
    total += math.prod(config.grid) * patch * hidden
    # How many tokens each token meets, in each of a layer's blocks.
    for met in config.grid if config.axial_attention else (tokens,):
        block = tokens * (4 * hidden**2 + 2 * met * hidden + (2 + config.gated_mlp) * hidden * mlp)
        if config.position_embedding in RELATIVE:
            block += tokens * (2 * tokens - 1) * hidden
        total += config.depth * block
    outputs = tokens if config.pooling == "none" else 1
    if config.pooling == "attention":
        # One query; keys and values of all tokens.
        total += (2 + 2 * tokens) * hidden**2 + 2 * tokens * hidden + 2 * hidden * mlp
    if config.pooling == "distillation":
        outputs = 2
    features = config.representation_size or hidden
    if config.pooling == "token_patch_mean":
        features += hidden
    total += outputs * (0 if config.representation_size is None else hidden * features)
    return total + outputs * features * config.num_classes


def count_decoder_multiply_adds(config, head):
    """Multiply-adds of a segmentation's decoder for one image, without the resize of its logits.

    Args:
        config: As in `count_multiply_adds`, of what is under the decoder.
        head: `keras_vit.models.segmentation.SegmentationHead`.

    Returns:
        An integer.
    """
    is_transformer = hasattr(config, "hidden_size")
    features = config.hidden_size if is_transformer else _channels(config)
    patches, classes = math.prod(_map_size(config)), head.num_classes
    if head.decoder == "linear":
        return patches * features * classes
    width, tokens = head.decoder_hidden_size or features, patches + classes
    block = tokens * (4 * width**2 + 2 * tokens * width + 2 * width * 4 * width)
    # Both projections, of all tokens, and the products of patches with classes.
    last = tokens * width**2 + patches * classes * width
    return patches * features * width + head.decoder_depth * block + last


def _map_size(config):
    """(h, w) of the last map."""
    if hasattr(config, "hidden_size"):
        return config.grid
    size = _halved(_halved(config.image_size))
    for _ in config.stage_depths[1:]:
        size = _halved(size)
    return size


def pretraining_exaflops(multiply_adds, num_images, epochs):
    """10^18 floating-point operations of a pre-training, as Table 6 of arXiv:2010.11929v2 counts.

    Args:
        multiply_adds: of one image's forward pass.
        num_images: of the data set; 303 million in the paper's JFT-300M.
        epochs: how often each is seen.

    Returns:
        A float: 2 operations x 3 (forward, and backward at twice that) x multiply-adds x images.

    >>> round(pretraining_exaflops(17_563_828_224, 303e6, 7), 1)
    223.5
    """
    return 2 * 3 * multiply_adds * num_images * epochs / 1e18


def _taps(size, kernel, stride, is_same):
    """The products of a padded convolution's kernel, for one channel in and one out."""
    del is_same
    return math.prod(-(-side // stride) for side in size) * kernel**2


def _taps_inside(size, kernel, stride, is_same):
    """The same without those with the padding.

    Hybrids pad as TensorFlow's "same", BiT with kernel // 2 pixels on each side.
    """

    def of_side(side):
        outputs = -(-side // stride)
        before = kernel // 2
        if is_same:
            before = max((outputs - 1) * stride + kernel - side, 0) // 2
        starts = [i * stride - before for i in range(outputs)]
        return sum(min(start + kernel, side) - max(start, 0) for start in starts)

    return math.prod(map(of_side, size))


def _axial_resnet(config, inside_image=False):
    """(parameters, multiply-adds) of an `AxialResNetConfig`."""
    root, heads = config.root_channels, config.num_heads
    taps = _taps_inside if inside_image else _taps
    parameters = (_ROOT_KERNEL**2 * config.in_channels + 2) * root
    products = taps(config.image_size, _ROOT_KERNEL, 2, True) * config.in_channels * root
    size = _halved(_halved(config.image_size))
    first_units = _first_units(config.stage_depths)
    for i, (c, m, projects) in enumerate(_units(config)):
        out = _halved(size) if i in first_units else size
        outer = m * 4 * m + projects * c * 4 * m
        parameters += c * m + outer + 2 * (m + 4 * m + projects * 4 * m)
        products += math.prod(size) * c * m + math.prod(out) * outer
        for length in size:
            # A product of 2 m, two norms, and vectors of twice a head's size for each offset.
            parameters += 2 * m * m + 2 * (2 * m + m) + 2 * (m // heads) * (2 * length - 1)
            # Scores from q k, q r and k r, of half the features; the mean of v and r.
            products += math.prod(size) * (2 * m * m + length * (3 * m // 2 + 2 * m))
        size = out
    head = _channels(config) * config.num_classes
    return parameters + head + config.num_classes, products + head


def _positions(config):
    """The weights of all tables of positions."""
    hidden, tokens = config.hidden_size, _num_tokens(config)
    if config.position_embedding in RELATIVE:
        heads = config.num_heads if config.position_embedding == "relative_per_head" else 1
        return config.depth * heads * (2 * tokens - 1) * (hidden // config.num_heads)
    registers = 0 if config.register_positions else config.num_registers
    leading = config.num_leading_tokens - registers
    table = {
        "learned": (tokens - registers) * hidden,
        "learned2d": leading * hidden + sum(config.grid) * (hidden // 2),
    }.get(config.position_embedding, 0)
    return table * (config.depth if config.position_location == "every_layer" else 1)


def _dense(inputs, outputs):
    return (inputs + 1) * outputs


def _attention(hidden):
    return 4 * _dense(hidden, hidden)


def _mlp(hidden, mlp):
    return _dense(hidden, mlp) + _dense(mlp, hidden)


def _num_tokens(config):
    return math.prod(config.grid) + config.num_leading_tokens


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
