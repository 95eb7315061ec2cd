"""AxialResNet, the baseline of Axial-ViT (D.6 of arXiv:2010.11929v2, after arXiv:2003.07853).

Shapes: B batch, H W pixels, F channels of the last stage.
"""

import functools

import keras

from keras_vit.layers import AxialBottleneckUnit
from keras_vit.models.classifier import ImageClassifier, classification_head
from keras_vit.models.features import resnet_features
from keras_vit.models.hybrid import stem
from keras_vit.models.resnet_configs import AxialResNetConfig


@keras.saving.register_keras_serializable(package="keras_vit")
class AxialResNet(ImageClassifier):
    """AxialResNet as a functional `keras.Model`.

    Layers whose outputs are worth having by name: `conv_root`, `root_pool`, `block1_unit1` ... (all
    (B, height, width, channels)), `pre_logits` (B, F) and `head` (B, num_classes).

    Args:
        config: `AxialResNetConfig`.
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

    config_class = AxialResNetConfig
    _feature_extractor = staticmethod(resnet_features)

    @staticmethod
    def _build_outputs(config, images, policy):
        unit = functools.partial(AxialBottleneckUnit, num_heads=config.num_heads)
        x = stem(config, images, policy, unit)  # (B, H/32, W/32, F)
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=policy, name="pre_logits"
        )(x)  # (B, F)
        return classification_head(config, x, policy)
