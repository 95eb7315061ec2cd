"""The architectures of the families with a ResNet in them; nothing here needs Keras.

Shapes: H W pixels, C channels.
"""

import dataclasses

from keras_vit.models.fields import (
    check_num_classes,
    check_one_of,
    check_positive,
    field,
    pair,
)
from keras_vit.models.vit_config import VisionTransformerConfig

# The names of `layers.resnet.STANDARDIZATIONS`, and its groups.
STANDARDIZATIONS = ("deviation", "variance")
NUM_GROUPS = 32
ROOT_POOL_PADDINGS = ("zero", "infinite")


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

    stage_depths: tuple[int, ...] = field(tells_presets=True)
    width_factor: float = field(1.0, tells_presets=True)
    group_norm_epsilon: float = field(1e-6, chosen_at_load=True, changes_numbers=True)
    conv_epsilon: float = field(1e-5, chosen_at_load=True, changes_numbers=True)
    standardization: str = field("deviation", chosen_at_load=True, changes_numbers=True)

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))
        check_stages(self)
        check_one_of(self, standardization=STANDARDIZATIONS)
        super().__post_init__()

    @property
    def root_channels(self):
        """Channels after the root convolution."""
        return int(64 * self.width_factor)

    @property
    def stride(self):
        """By how much the stem and the stages divide the resolution."""
        return stride(self.stage_depths)

    @property
    def feature_size(self):
        """(height, width) of the feature map that is cut into patches."""
        return tuple(-(-side // self.stride) for side in self.image_size)


def stride(stage_depths):
    """By how much the stem and the stages divide the resolution."""
    return 4 * 2 ** max(len(stage_depths) - 1, 0)


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

    stage_depths: tuple[int, ...] = field(tells_presets=True)
    width_factor: float = field(1.0, tells_presets=True)
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    group_norm_epsilon: float = field(1e-5, chosen_at_load=True, changes_numbers=True)
    conv_epsilon: float = field(1e-10, chosen_at_load=True, changes_numbers=True)
    root_pool_padding: str = field("zero", chosen_at_load=True, changes_numbers=True)
    head_bias: float = field(0.0, chosen_at_load=True)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxialResNetConfig:
    """An AxialResNet's architecture: a ResNet with axial attention for its 3x3 convolutions.

    Args:
        stage_depths: units in each stage, (3, 4, 6, 3) for AxialResNet50.
        width_factor: times 64 root channels.
        num_heads: k; twice of it must divide the root channels.
        image_size: (H, W) in pixels, or one integer; its tables of relative positions hold for no
            other.
        in_channels: C.
        num_classes: width of the head; 0 for none.
        group_norm_epsilon: 1e-4 in scenic's code.
        conv_epsilon: added to the kernels' standard deviation; 1e-5 in scenic's code.
        head_bias: initial value of the head's bias.

    Raises:
        ValueError: where a value is out of range or sizes do not fit each other.
    """

    stage_depths: tuple[int, ...] = field(tells_presets=True)
    width_factor: float = field(1.0, tells_presets=True)
    num_heads: int = field(8, tells_presets=True)
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    group_norm_epsilon: float = field(1e-4, chosen_at_load=True, changes_numbers=True)
    conv_epsilon: float = field(1e-5, chosen_at_load=True, changes_numbers=True)
    head_bias: float = field(0.0, chosen_at_load=True)

    # Of what the stem of hybrids asks.
    standardization = "deviation"

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))
        object.__setattr__(self, "image_size", pair(self.image_size, "image_size"))
        check_stages(self)
        check_num_classes(self)
        check_positive(self, "num_heads")
        if not self.stage_depths:
            raise ValueError("`stage_depths` must name at least one stage. Received: ()")
        if self.root_channels % (2 * self.num_heads):
            raise ValueError(
                "twice `num_heads` must divide the root channels. "
                f"Received: num_heads={self.num_heads}, {self.root_channels} channels"
            )

    @property
    def root_channels(self):
        """Channels after the root convolution."""
        return int(64 * self.width_factor)
