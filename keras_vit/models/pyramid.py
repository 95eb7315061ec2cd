"""Backbones of detectors: a model's last map as a feature pyramid."""

import keras

from keras_vit.layers.pyramid import SimpleFeaturePyramid
from keras_vit.models.windows import windowed_features


@keras.saving.register_keras_serializable(package="keras_vit")
class PyramidBackbone(keras.Model):
    """A functional model from images to the maps of `SimpleFeaturePyramid`.

    Made by `pyramid_backbone`.

    Attributes:
        pyramid_outputs: Symbolic maps by level, as KerasHub's detectors take them of a backbone.
    """

    @property
    def pyramid_outputs(self):
        """A dict from `"P2"` ... `"P6"` to a symbolic (B, H / stride, W / stride, F)."""
        return dict(self.output)


def pyramid_backbone(
    model,
    channels=256,
    window=None,
    global_blocks=None,
    relative_positions=False,
    name="pyramid_backbone",
):
    """ViTDet's simple feature pyramid (arXiv:2203.16527) on a model, whose weights are shared.

    With patches of 16 the strides are 4, 8, 16, 32 and 64.  It starts from the last block's output,
    without the final norm.

    Args:
        model: An `ImageClassifier` with encoder blocks, or a BiT-ResNet, whose strides are doubled.
        channels: F, channels of each map.
        window: Sides of the windows in patches, 14 in the paper, as in `windowed_features`; None
            keeps the attention of the model, over all patches.
        global_blocks: As in `windowed_features`; they need a window.
        relative_positions: As in `windowed_features`; they need a window.
        name: Name of the Keras model.

    Returns:
        A `PyramidBackbone`.

    Raises:
        ValueError: As `windowed_features`, or for its arguments without a window.
    """
    if window is not None:
        x = windowed_features(model, window, global_blocks, relative_positions).output
    elif global_blocks is not None or relative_positions:
        raise ValueError(
            "`global_blocks` and `relative_positions` need a `window`. Received: window=None"
        )
    else:
        features = model.feature_extractor(blocks=(-1,), layout="grid", normalize=False)
        (x,) = features.output.values()  # (B, h, w, D)
    pyramid = SimpleFeaturePyramid(channels, dtype=model.dtype_policy, name="pyramid")
    return PyramidBackbone(model.input, pyramid(x), name=name)
