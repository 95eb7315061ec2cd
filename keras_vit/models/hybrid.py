"""Hybrids: a ResNet's feature map in place of the image (arXiv:2010.11929v2, section 3.1).

Shapes: B batch, H W pixels, C channels, m middle channels of a unit.
"""

import dataclasses

import keras

from keras_vit.layers import BottleneckUnit, StandardizedConv2D
from keras_vit.layers.resnet import NUM_GROUPS, STANDARDIZATIONS
from keras_vit.models.classifier import check_one_of, check_positive
from keras_vit.models.vit import VisionTransformer, VisionTransformerConfig, encode


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridVisionTransformerConfig(VisionTransformerConfig):
    """A hybrid's architecture: a Transformer's, whose patches are cut from a ResNet's output.

    Args:
        stage_depths: units in each stage, (3, 4, 9) for R50+ViT-B/16; () is the stem alone.  The
            stem divides the resolution by 4, each stage after the first by 2 more.
        width_factor: times 64 root channels; the channels must be a multiple of 32.
        group_norm_epsilon: 1e-6 in the official code.
        conv_epsilon: added to the kernels' standard deviation; 1e-5 in the official code.
        standardization: `"deviation"` (official), or `"variance"` where the epsilon is added to the
            kernels' variance (timm, Hugging Face).
        patch_size: (P, Q) in cells of the feature map.

    Raises:
        ValueError: where a value is out of range or sizes do not fit each other.
    """

    stage_depths: tuple[int, ...]
    width_factor: float = 1.0
    group_norm_epsilon: float = 1e-6
    conv_epsilon: float = 1e-5
    standardization: str = "deviation"

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))
        check_stages(self)
        check_one_of(self, standardization=sorted(STANDARDIZATIONS))
        super().__post_init__()

    @property
    def root_channels(self):
        """Channels after the root convolution."""
        return int(64 * self.width_factor)

    @property
    def stride(self):
        """By how much the stem and the stages divide the resolution."""
        return 4 * 2 ** max(len(self.stage_depths) - 1, 0)

    @property
    def feature_size(self):
        """(height, width) of the feature map that is cut into patches."""
        return tuple(-(-side // self.stride) for side in self.image_size)


def check_stages(config):
    """Raises ValueError unless the ResNet part of `config` can be built."""
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in config.stage_depths):
        raise ValueError(
            f"`stage_depths` must be integers of at least 1. Received: {config.stage_depths}"
        )
    channels = 64 * config.width_factor
    if channels < NUM_GROUPS or channels % NUM_GROUPS:
        raise ValueError(
            f"64 times `width_factor` must be a multiple of the {NUM_GROUPS} groups. "
            f"Received: {config.width_factor}"
        )
    check_positive(config, "in_channels")


@keras.saving.register_keras_serializable(package="keras_vit")
class HybridVisionTransformer(VisionTransformer):
    """Hybrid Vision Transformer as a functional `keras.Model`.

    The layers of `VisionTransformer`, and before them `conv_root`, `gn_root`, `root_pool` and
    `block1_unit1` ... `block{b}_unit{u}`, each (B, height, width, channels).

    Arguments and results are those of `VisionTransformer`, with a `HybridVisionTransformerConfig`.
    """

    config_class = HybridVisionTransformerConfig

    @staticmethod
    def _build_outputs(config, images, policy):
        x = StandardizedConv2D(
            config.root_channels,
            7,
            stride=2,
            standardization=config.standardization,
            epsilon=config.conv_epsilon,
            dtype=policy,
            name="conv_root",
        )(images)  # (B, H/2, W/2, C)
        x = keras.layers.GroupNormalization(
            NUM_GROUPS, epsilon=config.group_norm_epsilon, dtype=policy, name="gn_root"
        )(x)
        x = keras.layers.ReLU(dtype=policy, name="root_relu")(x)
        x = keras.layers.MaxPooling2D(
            3, 2, padding="same", data_format="channels_last", dtype=policy, name="root_pool"
        )(x)  # (B, H/4, W/4, C)
        for b, num_units in enumerate(config.stage_depths, start=1):
            for u in range(1, num_units + 1):
                x = BottleneckUnit(
                    config.root_channels * 2 ** (b - 1),
                    stride=2 if b > 1 and u == 1 else 1,
                    group_norm_epsilon=config.group_norm_epsilon,
                    conv_epsilon=config.conv_epsilon,
                    standardization=config.standardization,
                    dtype=policy,
                    name=f"block{b}_unit{u}",
                )(x)  # (B, H/4/2^(b-1), W/4/2^(b-1), 4 m)
        return encode(config, x, policy)
