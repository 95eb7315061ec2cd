"""BiT-ResNet: the pre-activation ResNet-v2 of Big Transfer (arXiv:1912.11370).

Shapes: B batch, H W pixels, C channels, m middle channels of a unit.
"""

import keras

from keras_vit.layers import InfinitePadding2D, PreActivationUnit, StandardizedConv2D
from keras_vit.models.classifier import ImageClassifier, classification_head
from keras_vit.models.features import resnet_features
from keras_vit.models.resnet_configs import NUM_GROUPS, BiTResNetConfig


@keras.saving.register_keras_serializable(package="keras_vit")
class BiTResNet(ImageClassifier):
    """BiT-ResNet as a functional `keras.Model`.

    Layers whose outputs are worth having by name: `root_conv`, `root_pool`, `block1_unit1` ...,
    `norm_pre_head` (all (B, height, width, channels)), `pre_logits` (B, 2048 width_factor) and
    `head` (B, num_classes).

    Args:
        config: `BiTResNetConfig`.
        preprocessing: `Preprocessing`; by default a squash to the image size and values in [-1, 1].
        class_names: one name for each class, or None.
        origin: where the weights come from (set by `from_pretrained`).
        name: of the model.
        dtype: dtype or policy of all layers; None takes the global one.

    Call arguments:
        images: (B, H, W, C) floats in `preprocessing.value_range`.

    Returns:
        (B, num_classes) float32 logits, or the `pre_logits` features where there is no head.
    """

    config_class = BiTResNetConfig
    _feature_extractor = staticmethod(resnet_features)

    @staticmethod
    def _build_outputs(config, images, policy):
        x = _pad(images, 3, policy, "root_conv_pad")
        x = StandardizedConv2D(
            config.root_channels,
            7,
            stride=2,
            padding="valid",
            standardization="variance",
            epsilon=config.conv_epsilon,
            dtype=policy,
            name="root_conv",
        )(x)  # (B, H/2, W/2, C)
        if config.root_pool_padding == "zero":
            x = _pad(x, 1, policy, "root_pool_pad")
        else:
            x = InfinitePadding2D(1, dtype=policy, name="root_pool_pad")(x)
        x = keras.layers.MaxPooling2D(
            3, 2, data_format="channels_last", dtype=policy, name="root_pool"
        )(x)  # (B, H/4, W/4, C)
        for b, num_units in enumerate(config.stage_depths, start=1):
            for u in range(1, num_units + 1):
                x = PreActivationUnit(
                    config.root_channels * 2 ** (b - 1),
                    stride=2 if b > 1 and u == 1 else 1,
                    group_norm_epsilon=config.group_norm_epsilon,
                    conv_epsilon=config.conv_epsilon,
                    dtype=policy,
                    name=f"block{b}_unit{u}",
                )(x)  # (B, H/4/2^(b-1), W/4/2^(b-1), 4 m)
        x = keras.layers.GroupNormalization(
            NUM_GROUPS, epsilon=config.group_norm_epsilon, dtype=policy, name="norm_pre_head"
        )(x)
        x = keras.layers.ReLU(dtype=policy, name="relu_pre_head")(x)
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=policy, name="pre_logits"
        )(x)  # (B, F)
        return classification_head(config, x, policy)


def _pad(x, pixels, policy, name):
    return keras.layers.ZeroPadding2D(pixels, data_format="channels_last", dtype=policy, name=name)(
        x
    )
