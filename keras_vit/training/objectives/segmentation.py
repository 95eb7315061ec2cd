"""Semantic segmentation, as in Segmenter (arXiv:2105.05633).

Shapes: B batch, H W pixels, K classes.
"""

import dataclasses
import functools

import keras
from keras import ops

from keras_vit.data import mask_pipeline
from keras_vit.data.catalog.masks import resolve_masks
from keras_vit.data.images.joint import MIRROR, SCALES
from keras_vit.data.images.windows import IGNORE
from keras_vit.evaluators.segmentation import MeanIoU
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel
from keras_vit.training.objectives.masked_patches import given


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Learns a class for each pixel.

    Args:
        decoder: `"linear"` or `"mask"`.
        decoder_hidden_size, decoder_depth, decoder_num_heads: Of the mask transformer; None takes
            the features' width, 2, and one head for each 64 of the width.
        decoder_dropout: Rate in the mask transformer, in [0, 1).
        class_weights: What a pixel of each class counts, K numbers; None counts all alike.
        scale_range: The least and the greatest scale of an image in training.
        mirror: Whether images are mirrored in training with probability one half.
        window_stride: (vertical, horizontal), pixels between two windows at inference.
    """

    decoder: str = "linear"
    decoder_hidden_size: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    decoder_dropout: float = 0.0
    class_weights: tuple[float, ...] | None = None
    scale_range: tuple[float, float] = SCALES
    mirror: bool = MIRROR
    window_stride: tuple[int, int] | None = None
    uses_labels = False  # of whole images: the model has no head before `build`
    keeps_targets = True
    resolve = staticmethod(resolve_masks)

    def build(self, model, info):
        """The model with a decoder.

        Raises:
            ValueError: For class weights that are not as many as the classes.
        """
        if self.class_weights is not None and len(self.class_weights) != info.num_classes:
            raise ValueError(
                f"`class_weights` must be one number for each of the {info.num_classes} classes. "
                f"Received: {len(self.class_weights)}"
            )
        sizes = given(decoder_depth=self.decoder_depth)
        head = SegmentationHead(
            num_classes=info.num_classes,
            decoder=self.decoder,
            decoder_hidden_size=self.decoder_hidden_size,
            decoder_num_heads=self.decoder_num_heads,
            dropout=self.decoder_dropout,
            window_stride=self.window_stride,
            **sizes,
        )
        return SegmentationModel(model, head, info.class_names)

    @property
    def training_dataset(self):
        """As `keras_vit.data.pipeline.training_dataset`, with masks for labels."""
        return functools.partial(
            mask_pipeline.training_dataset, scales=self.scale_range, mirror=self.mirror
        )

    def targets(self, image, label, seed):
        return image, label

    def loss(self):
        return PixelCrossentropy(self.class_weights)

    def metrics(self):
        return [PixelAccuracy()]

    def finish(self, model):
        return model

    def evaluators(self, info, split, batch_size):
        del batch_size  # windows are larger than images of classes
        return [MeanIoU(split, dataset=info)]

    def evaluate(self, model, info, split):
        """What `metrics.json` says about the test split."""
        found = MeanIoU(split, dataset=info).run(model)
        return {**found, "count": info.num_examples(split)}


def _counted(masks, dtype):
    """`(classes, 1 where a pixel counts)`: what is ignored is of class 0."""
    masks = ops.cast(masks, "int32")
    counts = ops.not_equal(masks, IGNORE)
    return ops.where(counts, masks, 0), ops.cast(counts, dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of each pixel, averaged over all pixels of an image.

    A pixel that is ignored (255) adds nothing; it stays in the number that the sum is divided by,
    as in mmsegmentation (`avg_non_ignore=False`), so that the loss of a batch is the mean of those
    of its images, on any number of replicas and micro-batches.

    Args:
        class_weights: K numbers that a pixel's loss is multiplied by; None for 1.
        name: Name of the loss.
        reduction: Of Keras, over images.
        dtype: Of the computation.

    Call arguments:
        y_true: (B, H, W) integers in [0, K), or 255.
        y_pred: (B, H, W, K) logits.
    """

    def __init__(
        self,
        class_weights=None,
        name="pixel_crossentropy",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))

    def call(self, y_true, y_pred):
        classes, counts = _counted(y_true, y_pred.dtype)
        losses = -ops.take_along_axis(ops.log_softmax(y_pred), classes[..., None], axis=-1)[..., 0]
        if self.class_weights is not None:
            weights = ops.convert_to_tensor(self.class_weights, y_pred.dtype)
            counts = counts * ops.take(weights, classes)
        return ops.mean(losses * counts, axis=(1, 2))  # (B,)

    def get_config(self):
        return {**super().get_config(), "class_weights": self.class_weights}


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelAccuracy(keras.metrics.Metric):
    """Share of the pixels whose highest logit is that of their class; 255 counts nowhere.

    Args:
        name: Name of the metric.
        dtype: Of the computation.
    """

    def __init__(self, name="pixel_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._direction = "up"
        self.right = self.add_variable((), "zeros", dtype="float32", name="right")
        self.number = self.add_variable((), "zeros", dtype="float32", name="number")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes, counts = _counted(y_true, "float32")
        is_right = ops.cast(ops.equal(ops.argmax(y_pred, -1), classes), "float32")
        # Means of images before they are added: a count of pixels leaves what float32 can hold.
        self.right.assign_add(ops.sum(ops.mean(is_right * counts, axis=(1, 2))))
        self.number.assign_add(ops.sum(ops.mean(counts, axis=(1, 2))))

    def result(self):
        return ops.divide_no_nan(self.right, self.number)


def from_recipe(recipe):
    """The objective with the recipe's fields, or the defaults."""
    fields = [field.name for field in dataclasses.fields(Segmentation)]
    return Segmentation(**given(**{name: getattr(recipe, name) for name in fields}))
