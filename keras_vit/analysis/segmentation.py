"""A segmentation model for the measures of this folder, which are of what is under its decoder.

Shapes: B images, H W pixels, K classes.
"""

import keras
import numpy as np

from keras_vit.analysis.blocks import batches
from keras_vit.models.segmentation import SegmentationModel


def under_decoder(model):
    """What analyses look at: a segmentation model up to its decoder, any other model itself.

    Args:
        model: Any model.

    Returns:
        A model of the package, or a `keras.Model` to the decoder's input that shares the weights
        and has `config` and `preprocessing` of a model without a head.
    """
    if not isinstance(model, SegmentationModel):
        return model
    subject = keras.Model(model.input, model.get_layer("decoder").input, name=model.name)
    subject.config, subject.preprocessing = model.backbone_config, model.preprocessing
    return subject


def masks_of(model, images):
    """The classes of all pixels: uint8 (B, H, W), or None for a model that is no segmentation.

    Args:
        model: Any model of the package.
        images: (B, H, W, C), as for a call of the model.
    """
    if not isinstance(model, SegmentationModel):
        return None
    parts = batches(under_decoder(model), images, None)
    masks = [np.asarray(model.predict_on_batch(batch)).argmax(-1) for _, batch in parts]
    return np.concatenate(masks).astype(np.uint8)


def shares_of(mask, class_names):
    """The classes that a mask has, and each one's share of its pixels, the largest first.

    Args:
        mask: uint8 (H, W).
        class_names: K names, or None for their numbers.

    >>> shares_of(np.array([[0, 2], [2, 2]], np.uint8), None)
    (('2', 0.75), ('0', 0.25))
    """
    classes, counts = np.unique(mask, return_counts=True)
    found = sorted(zip(classes.tolist(), counts.tolist(), strict=True), key=lambda x: (-x[1], x[0]))
    name = str if class_names is None else class_names.__getitem__
    return tuple((name(index), count / mask.size) for index, count in found)
