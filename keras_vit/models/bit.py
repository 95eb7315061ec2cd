"""BiT-ResNet: the pre-activation ResNet-v2 of Big Transfer (arXiv:1912.11370).

Shapes: B batch, H W pixels, C channels, m middle channels of a unit.
"""

import dataclasses
import math

import keras

from keras_vit.layers import PreActivationUnit, StandardizedConv2D
from keras_vit.layers.resnet import NUM_GROUPS
from keras_vit.models.classifier import (
    ImageClassifier,
    check_num_classes,
    check_one_of,
    classification_head,
    pair,
)
from keras_vit.models.hybrid import check_stages

ROOT_POOL_PADDINGS = ("zero", "infinite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiTResNetConfig:
    """A BiT-ResNet's architecture.

    Args:
        stage_depths: units in each stage, (3, 4, 6, 3) for R50.
        width_factor: times 64 root channels: the 3 of R50x3.
        image_size: (H, W) in pixels, or one integer; any size works with the same weights.
        in_channels: C.
        num_classes: width of the head; 0 for none.
        group_norm_epsilon: 1e-5 in the official code.
        conv_epsilon: added to the kernels' variance; 1e-10 in the official code.
        root_pool_padding: what surrounds the input of the root's pooling, which can be negative:
            `"zero"` in the official code, `"infinite"` (minus infinity) in big_vision's.
        head_bias: initial value of the head's bias.

    Raises:
        ValueError: where a value is out of range.
    """

    stage_depths: tuple[int, ...]
    width_factor: float = 1.0
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    group_norm_epsilon: float = 1e-5
    conv_epsilon: float = 1e-10
    root_pool_padding: str = "zero"
    head_bias: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))
        object.__setattr__(self, "image_size", pair(self.image_size, "image_size"))
        check_stages(self)
        check_num_classes(self)
        check_one_of(self, root_pool_padding=ROOT_POOL_PADDINGS)
        if not self.stage_depths:
            raise ValueError("`stage_depths` must name at least one stage. Received: ()")

    @property
    def root_channels(self):
        """Channels after the root convolution."""
        return int(64 * self.width_factor)


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
            one = (1, 1)
            x = keras.ops.pad(x, ((0, 0), one, one, (0, 0)), constant_values=-math.inf)
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
