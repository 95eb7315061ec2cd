"""A model block by block and a few images at a time, so that memory does not grow with either.

Shapes: B images, b images of one batch, H W pixels, h w grid, N = h w patches, T tokens, D hidden,
k heads.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_vit.models.classifier import input_size
from keras_vit.models.fields import replace_fields

# What a batch may take: float32 attention weights of one block, and pixels that go in together (a
# hybrid's ResNet keeps about 100 times as many numbers while it runs).
_MAX_ATTENTION_BYTES = 2**26
_MAX_PIXELS = 8 * 224**2
_MAX_PIXELS_THROUGH_RESNET = 4 * 224**2


def check_transformer(model, what):
    """Raises ValueError unless a model has encoder blocks.

    Args:
        model: Any model.
        what: What the caller wants of it, for the message.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "hidden_size"):
        raise ValueError(
            f"{what} needs a Vision Transformer or a hybrid of this package. "
            f"Received: {type(model).__name__}; `block_features`, `representation_similarity`, "
            "`grad_cam`, `embedding_filters` and `weight_statistics` take BiT-ResNets too"
        )


def check_attention(model, what):
    """Raises ValueError unless a model has attention of all tokens for each other.

    Args:
        model: Any model.
        what: What the caller wants of it, for the message.
    """
    check_transformer(model, what)
    if not has_attention(model):
        raise ValueError(
            f"{what} needs attention of all tokens for each other. Received: a model with axial "
            "attention, whose tokens meet along one axis at a time; `block_features`, `grad_cam`, "
            "`representation_similarity` and `position_similarity` take it"
        )


def has_attention(model):
    """Whether a model of the package has attention of all tokens for each other."""
    return hasattr(model.config, "hidden_size") and not model.config.axial_attention


def check_model(model, what):
    """Raises ValueError unless a model is one of the package's.

    Args:
        model: Any model.
        what: What the caller wants of it, for the message.
    """
    if not hasattr(getattr(model, "config", None), "image_size"):
        raise ValueError(
            f"{what} needs a model of this package. Received: {type(model).__name__}; make it with "
            "`keras_vit.from_pretrained` or `keras_vit.create_model`"
        )


def check_images(model, images):
    """Returns images as an array that slices, without a copy where they are one.

    Raises:
        ValueError: unless they are (B, H, W, C) of the model's size with B of at least 1.
    """
    check_model(model, "an analysis of images")
    images = images if hasattr(images, "shape") else np.asarray(images)
    wanted = (None, *input_size(model.config), model.config.in_channels)
    received = tuple(images.shape)
    fits = len(received) == 4 and all(b in (a, None) for a, b in zip(received, wanted, strict=True))
    if not fits or received[0] < 1:
        names = zip("BHWC", wanted, strict=True)
        sides = ", ".join(name if side is None else str(side) for name, side in names)
        raise ValueError(
            f"`images` must be ({sides}), at least one, with values as "
            f"the model's preprocessing makes them. Received: shape {tuple(images.shape)}"
        )
    return images


def config_for(model, image_size=None):
    """A model's configuration for images of a size, where that is free."""
    if image_size is None or input_size(model.config) != (None, None):
        return model.config
    return replace_fields(model.config, {"image_size": tuple(image_size)})


def block_index(model, block):
    """The index of a block, counted from 0, of one that may be counted from the last.

    Raises:
        ValueError: for a block that does not exist.
    """
    depth = model.config.depth
    if not isinstance(block, int) or not -depth <= block < depth:
        raise ValueError(
            f"`block` must be an integer between {-depth} and {depth - 1}. Received: {block!r}"
        )
    return block % depth


def default_batch_size(model, image_size=None):
    """How many images go through a model together: 8 at 224 px, fewer where they need more."""
    config = config_for(model, image_size)
    if not hasattr(config, "hidden_size"):
        return max(1, _MAX_PIXELS_THROUGH_RESNET // int(np.prod(config.image_size)))
    has_resnet = hasattr(config, "stage_depths")
    pixels = _MAX_PIXELS_THROUGH_RESNET if has_resnet else _MAX_PIXELS
    tokens = int(np.prod(config.grid)) + config.num_leading_tokens
    met = max(config.grid) if config.axial_attention else tokens
    attention_bytes = 4 * config.num_heads * tokens * met
    return max(
        1, min(pixels // int(np.prod(config.image_size)), _MAX_ATTENTION_BYTES // attention_bytes)
    )


def batches(model, images, batch_size):
    """Yields (slice of the images, those images) in order.

    Raises:
        ValueError: for a batch size below 1.
    """
    size = default_batch_size(model, images.shape[1:3]) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
    for start in range(0, images.shape[0], size):
        rows = slice(start, min(start + size, images.shape[0]))
        yield rows, images[rows]


def as_float32(tensor):
    """A tensor of any float type as a float32 array."""
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


class Step:
    """One block's work on one batch; what nobody asks for is not computed.

    Attributes:
        rows: Slice of the images that the batch is.
        block: Index of the block.
        tokens: (b, T, D), the block's input in the compute dtype.
        outputs: (b, T, D), its output.
        attention: (b, k, T, T) float32 array; rows sum to 1.
    """

    def __init__(self, rows, block, layer, tokens):
        self.rows = rows
        self.block = block
        self.tokens = tokens
        self._layer = layer

    @functools.cached_property
    def outputs(self):
        return self._layer(self.tokens, training=False)

    @functools.cached_property
    def attention(self):
        return ops.convert_to_numpy(self._layer.attention_probabilities(self.tokens))


class Walk:
    """A Vision Transformer or hybrid taken apart at its encoder blocks.

    Args:
        model: The model; its layers are shared, not copied.
        image_size: (height, width) in pixels of the images that will be walked, for a model that
            takes any; None is the size of its positions.

    Attributes:
        grid: (h, w) in patches.
        pitch: (height, width) of a patch in pixels of the image.
        depth: Number of blocks.
        num_prefix: Number of tokens before the patches.
    """

    def __init__(self, model, image_size=None):
        config = config_for(model, image_size)
        self.model = model
        self.depth = config.depth
        self.grid = tuple(config.grid)
        self.pitch = tuple(
            side / cells for side, cells in zip(config.image_size, self.grid, strict=True)
        )
        if getattr(config, "partial_patches", False):
            self.pitch = tuple(config.patch_size)
        self._layers = [model.get_layer(f"encoderblock_{i}") for i in range(self.depth)]
        self.num_prefix = config.num_leading_tokens
        ends = [model.input, *(layer.output for layer in self._layers[:-1])]
        self._ways = [
            _between(end, layer.input) for end, layer in zip(ends, self._layers, strict=True)
        ]

    @functools.cached_property
    def tail(self):
        """Function from the last block's output to the model's."""
        return keras.Model(self._layers[-1].output, self.model.output)

    def tail_from(self, block):
        """Function from a block's input to the model's output."""
        return keras.Model(self._layers[block].input, self.model.output)

    def steps(self, images, *, last=-1, batch_size=None):
        """Yields a `Step` for each batch and, within it, each block up to the last that is wanted.

        A step must not be kept: it holds the tokens of its batch.

        Args:
            images: (B, H, W, C).
            last: Index of the last block that is wanted.
            batch_size: Images that go through together; None for what 64 MB of attention allow.
        """
        last = last % self.depth
        for rows, batch in batches(self.model, images, batch_size):
            tokens = batch
            for block in range(last + 1):
                tokens = self._ways[block](tokens)
                step = Step(rows, block, self._layers[block], tokens)
                yield step
                if block < last:
                    tokens = step.outputs
                del step


def _between(start, end):
    """Function from one tensor of a functional model to another."""
    if start is end:
        return lambda tensor: tensor
    return functools.partial(keras.Model(start, end), training=False)
