"""Masked autoencoders (MAE, arXiv:2111.06377), as facebookresearch/mae defines them.

Shapes: B batch, N patches, V visible and M masked ones, L leading tokens, D hidden, P Q pixels of a
patch, C channels.
"""

import dataclasses

import keras
import tensorflow as tf

from keras_vit.layers import EncoderBlock, SinCosPositionEmbedding
from keras_vit.layers.masking import GatherOrMask, GatherTokens
from keras_vit.models.vit_config import RELATIVE
from keras_vit.train_step import TrainableModel
from keras_vit.training.objectives import patches
from keras_vit.training.objectives.masked_patches import given, patch_head

RATIO = 0.75
# The official decoder, for encoders of all sizes.
DECODER = {"decoder_hidden_size": 512, "decoder_depth": 8, "decoder_num_heads": 16}
VARIANCE_EPSILON = 1e-6
_MLP_RATIO = 4


@dataclasses.dataclass
class MaskedAutoencoder:
    """Predicts the pixels of patches that the encoder has not seen.

    Positions are added to all patches; a random share of them is left out; the encoder sees the
    rest.  A small decoder is given its tokens and a learned mask for each patch that was left out,
    with fixed positions, and predicts the pixels of these.  The loss is the mean squared error over
    the patches that were left out; with normalised pixels 1 is that of predicting their mean.

    Args:
        ratio: Share of the patches that are left out, in (0, 1); what is seen is rounded down.
        normalize_pixels: Whether each patch's values are brought to mean 0 and deviation 1.
        decoder_hidden_size: Width of the decoder.
        decoder_depth: Number of its blocks.
        decoder_num_heads: Number of its heads.
    """

    ratio: float = RATIO
    normalize_pixels: bool = True
    decoder_hidden_size: int = DECODER["decoder_hidden_size"]
    decoder_depth: int = DECODER["decoder_depth"]
    decoder_num_heads: int = DECODER["decoder_num_heads"]
    uses_labels = False
    # What `build` finds out; no fields, which are what the objective is.
    _base = _patches = None

    def __post_init__(self):
        width, heads = self.decoder_hidden_size, self.decoder_num_heads
        if width % heads or width % 4 or width < 8:
            raise ValueError(
                "`decoder_hidden_size` must be a multiple of 4 and of `decoder_num_heads`, and at "
                f"least 8. Received: {width} for {heads} heads"
            )

    def build(self, model, info):
        """The encoder on the visible patches, and a decoder.

        Raises:
            ValueError: For a model without patches of its own, or whose blocks need all of them.
        """
        cut = patches.patches_of(model, "mae")
        config, policy = model.config, model.dtype_policy
        if (
            config.axial_attention
            or config.position_embedding in RELATIVE
            or config.position_location != "stem"
        ):
            raise ValueError(
                "the objective 'mae' needs an encoder that can do with some of the patches, with "
                "positions at the stem alone. Received: "
                f"position_embedding={config.position_embedding!r}, "
                f"position_location={config.position_location!r}, "
                f"axial_attention={config.axial_attention}"
            )
        self._base, self._patches = model, cut
        leading = config.num_leading_tokens
        shapes = {"visible": self._visible, "masked": cut.number - self._visible}
        inputs = {
            name: keras.Input((number,), dtype="int32", name=name)
            for name, number in {**shapes, "sources": cut.number}.items()
        }
        # The encoder.
        x = model.get_layer("encoderblock_0").input  # (B, L + N, D)
        x = GatherTokens(leading, dtype=policy, name="visible_tokens")([x, inputs["visible"]])
        for i in range(config.depth):
            x = model.get_layer(f"encoderblock_{i}")(x)  # (B, L + V, D)
        x = model.get_layer("encoder_norm")(x)
        # The decoder.
        x = self._decode(x, inputs["sources"], policy)  # (B, L + N, decoder width)
        x = GatherTokens(leading, keeps_leading=False, dtype=policy, name="masked_tokens")(
            [x, inputs["masked"]]
        )
        outputs = patch_head(x, (cut.num_values,), policy, "decoder_pixels")  # (B, M, P Q C)
        trained = TrainableModel({"images": model.input, **inputs}, outputs, name="mae")
        trained.dtype_policy = policy
        return trained

    def _decode(self, tokens, sources, policy):
        config, width = self._base.config, self.decoder_hidden_size
        x = keras.layers.Dense(
            width, kernel_initializer="glorot_uniform", dtype=policy, name="decoder_embedding"
        )(tokens)
        x = GatherOrMask(config.num_leading_tokens, dtype=policy, name="decoder_mask")([x, sources])
        x = SinCosPositionEmbedding(config.grid, "mae", dtype=policy, name="decoder_positions")(x)
        for i in range(self.decoder_depth):
            x = EncoderBlock(
                self.decoder_num_heads,
                _MLP_RATIO * width,
                gelu=config.gelu,
                layer_norm_epsilon=config.layer_norm_epsilon,
                dtype=policy,
                name=f"decoder_block_{i}",
            )(x)
        return keras.layers.LayerNormalization(
            epsilon=config.layer_norm_epsilon, dtype=policy, name="decoder_norm"
        )(x)

    @property
    def _visible(self):
        return patches.share_of(self._patches.number, 1.0 - self.ratio, "mask_ratio")

    def targets(self, image, label, seed):
        cut = self._patches
        noise = tf.random.stateless_uniform((cut.number,), seed)
        visible, masked, sources = patches.left_out(noise, self._visible)
        values = tf.gather(cut.pixels(image), masked)
        if self.normalize_pixels:
            values = normalized(values)
        x = {"images": image, "visible": visible, "masked": masked, "sources": sources}
        return x, values

    def loss(self):
        return keras.losses.MeanSquaredError()

    def metrics(self):
        return []

    def finish(self, model):
        """The encoder alone, without the decoder."""
        return self._base


def normalized(values):
    """(M, P Q C) with mean 0 and deviation 1 in each patch, of which PyTorch's has one less."""
    number = values.shape[-1]
    mean = tf.reduce_mean(values, -1, keepdims=True)
    variance = tf.reduce_sum(tf.square(values - mean), -1, keepdims=True) / (number - 1)
    return (values - mean) / tf.sqrt(variance + VARIANCE_EPSILON)


def from_recipe(recipe):
    """The objective with the recipe's fields, or what the official code has."""
    return MaskedAutoencoder(
        **given(
            ratio=recipe.mask_ratio,
            normalize_pixels=recipe.normalize_pixels,
            **{name: getattr(recipe, name) for name in DECODER},
        )
    )
