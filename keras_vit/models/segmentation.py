"""Semantic segmentation: a decoder on the last features of a model of this package.

As in Segmenter (arXiv:2105.05633).  Shapes: B batch, h w grid, D hidden, K classes, H W pixels.
"""

import dataclasses

import keras

from keras_vit.layers import initializers
from keras_vit.layers.decoders import MaskTransformer, UpsampledLogits
from keras_vit.layers.trainable import set_trainable
from keras_vit.models.classifier import ImageClassifier, shared_config
from keras_vit.models.families import FAMILIES, family_of
from keras_vit.models.fields import replace_fields
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.models.vit_config import check_fixed_size
from keras_vit.train_step import TrainableModel

DECODERS = ("linear", "mask")
MAX_CLASSES = 255  # a mask's pixel is a byte, of which 255 is for pixels that count nowhere
_HEAD_FEATURES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationHead:
    """What is put on the features, and how windows are laid over an image.

    Args:
        num_classes: K, at most 255.
        decoder: `"linear"`, or `"mask"` for the mask transformer.
        decoder_depth: Blocks of the mask transformer.
        decoder_hidden_size: Its width; None takes D.
        decoder_num_heads: Its heads; None takes one for each 64 of the width, at least one.
        dropout: Rate in its blocks, in [0, 1).
        window_stride: (vertical, horizontal), pixels between two windows at inference; None takes
            the size of a window.
    """

    num_classes: int
    decoder: str = "linear"
    decoder_depth: int = 2
    decoder_hidden_size: int | None = None
    decoder_num_heads: int | None = None
    dropout: float = 0.0
    window_stride: tuple[int, int] | None = None

    def __post_init__(self):
        if self.decoder not in DECODERS:
            raise ValueError(f"`decoder` must be one of {DECODERS}. Received: {self.decoder!r}")
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"a segmentation must have 1 to {MAX_CLASSES} classes. Received: {self.num_classes}"
            )
        numbers = (self.decoder_depth, self.decoder_hidden_size, self.decoder_num_heads)
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(f"a decoder's sizes must be positive. Received: {numbers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: {self.dropout}")
        if self.window_stride is not None:
            object.__setattr__(self, "window_stride", tuple(self.window_stride))
            if len(self.window_stride) != 2 or min(self.window_stride) < 1:
                raise ValueError(
                    f"`window_stride` must be two positive numbers. Received: {self.window_stride}"
                )


@keras.saving.register_keras_serializable(package="keras_vit")
class SegmentationModel(TrainableModel):
    """Functional model from (B, H, W, C) images to (B, H, W, K) float32 logits.

    Attributes:
        backbone_config: Configuration of the model under the decoder, without a head.
        head: `SegmentationHead`.
        preprocessing: What pixels the model wants; its `image_size` is a window.
        class_names: A name for each class, or None.
        origin: Where the backbone's weights come from, a dict of plain values, or None.

    Args:
        backbone: An `ImageClassifier`, whose layers and weights are shared.
        head: `SegmentationHead`.
        class_names: K names, or None.
        name: Name of the Keras model.

    Raises:
        TypeError: For a backbone of another class.
        ValueError: For names that are not as many as the classes, or windows that are further
            apart than they are large.
    """

    def __init__(self, backbone, head, class_names=None, name="segmentation"):
        if not isinstance(backbone, ImageClassifier):
            raise TypeError(
                f"`backbone` must be a model of keras_vit. Received: {type(backbone).__name__}"
            )
        if class_names is not None:
            class_names = tuple(str(class_name) for class_name in class_names)
            if len(class_names) != head.num_classes:
                raise ValueError(
                    f"`class_names` must name each of the {head.num_classes} classes. Received: "
                    f"{len(class_names)} names"
                )
        check_fixed_size(backbone.config, "a segmentation, which lays windows over an image,")
        size, policy = backbone.config.image_size, backbone.dtype_policy
        stride = head.window_stride or size
        if stride[0] > size[0] or stride[1] > size[1]:
            raise ValueError(
                f"`window_stride` must be at most the windows' size {size}. Received: {stride}"
            )
        features = backbone.feature_extractor(blocks=(-1,), layout="grid")
        (x,) = features.output.values()  # (B, h, w, D)
        x = _decode(head, x, policy)  # (B, h, w, K)
        logits = UpsampledLogits(size, dtype=policy.variable_dtype, name="logits")(x)
        super().__init__(inputs=backbone.input, outputs=logits, name=name)
        self.dtype_policy = policy
        self.backbone_config = replace_fields(backbone.config, {"num_classes": 0})
        self.head = head
        self.class_names = class_names
        self.origin = dict(backbone.origin) if backbone.origin else None

    @property
    def preprocessing(self):
        """`Preprocessing`: what pixels the model wants."""
        return Preprocessing(**self.get_layer("images").preprocessing)

    @preprocessing.setter
    def preprocessing(self, preprocessing):
        self.get_layer("images").set_preprocessing(dataclasses.asdict(preprocessing))

    @property
    def window_stride(self):
        """(vertical, horizontal), pixels between two windows."""
        return self.head.window_stride or self.preprocessing.image_size

    def get_config(self):
        return {
            "backbone": family_of(self.backbone_config).name,
            "config": dataclasses.asdict(self.backbone_config),
            "head": dataclasses.asdict(self.head),
            **shared_config(self),
        }

    def quantize(self, mode=None, config=None, filters=None):
        """Raises NotImplementedError: it is for models that classify."""
        raise NotImplementedError(
            f"`quantize` is for models that classify. Received: {mode!r} for {self.name!r}, which "
            "answers with masks"
        )

    @classmethod
    def from_config(cls, config, custom_objects=None):
        family = FAMILIES[config["backbone"]]
        backbone = family.model_class.from_config(
            {name: config[name] for name in ("config", "preprocessing", "origin", "dtype")}
        )
        head = SegmentationHead(**config["head"])
        model = cls(backbone, head, config["class_names"], name=config["name"])
        set_trainable(model, config.get("trainable", {}))
        return model


def _decode(head, features, policy):
    """(B, h, w, D) -> (B, h, w, K)."""
    if head.decoder == "linear":
        return keras.layers.Dense(
            head.num_classes,
            kernel_initializer=initializers.truncated_normal(0.02),
            dtype=policy if policy.compute_dtype == policy.variable_dtype else "float32",
            name="decoder",
        )(features)
    width = head.decoder_hidden_size or features.shape[-1]
    return MaskTransformer(
        head.num_classes,
        depth=head.decoder_depth,
        num_heads=head.decoder_num_heads or max(width // _HEAD_FEATURES, 1),
        hidden_size=width,
        dropout=head.dropout,
        dtype=policy,
        name="decoder",
    )(features)
