"""Hybrids: a ResNet's feature map in place of the image (arXiv:2010.11929v2, section 3.1).

Shapes: B batch, H W pixels, C channels, m middle channels of a unit.
"""

import functools

import keras

from keras_vit.layers import BottleneckUnit, StandardizedConv2D
from keras_vit.models.positions import position_layers
from keras_vit.models.resnet_configs import NUM_GROUPS, HybridVisionTransformerConfig
from keras_vit.models.vit import VisionTransformer, embed, encode, head


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
        positions = position_layers(config, policy)
        features = stem(config, images, policy, bottleneck(config))
        tokens = embed(config, features, positions, policy)  # (B, T, D)
        tokens = encode(config, tokens, positions, policy)  # (B, T, D)
        return head(config, tokens, policy)  # (B, num_classes)


def bottleneck(config):
    """What makes a hybrid's residual units, from their filters, stride and epsilons."""
    return functools.partial(BottleneckUnit, standardization=config.standardization)


def stem(config, images, policy, unit):
    """The ResNet before the patches: (B, H, W, C) -> (B, height, width, channels).

    Args:
        config: `HybridVisionTransformerConfig` or `AxialResNetConfig`.
        images: (B, H, W, C).
        policy: dtype policy of the layers.
        unit: What makes its residual units.
    """
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
            x = unit(
                config.root_channels * 2 ** (b - 1),
                stride=2 if b > 1 and u == 1 else 1,
                group_norm_epsilon=config.group_norm_epsilon,
                conv_epsilon=config.conv_epsilon,
                dtype=policy,
                name=f"block{b}_unit{u}",
            )(x)  # (B, H/4/2^(b-1), W/4/2^(b-1), 4 m)
    return x
