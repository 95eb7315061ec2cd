"""Masked patch prediction (section 4.6 and B.1.2 of arXiv:2010.11929v2).

Shapes: B batch, N patches, M of them corrupted, D hidden.
"""

import dataclasses
import math

import keras
import tensorflow as tf
from keras import ops

from keras_vit.layers import initializers
from keras_vit.layers.masking import GatherOrMask, GatherTokens
from keras_vit.train_step import TrainableModel
from keras_vit.training.objectives import patches

RATIO = 0.5
PROPORTIONS = (0.8, 0.1, 0.1)


@dataclasses.dataclass
class MaskedPatches:
    """Predicts, for every corrupted patch of an image, what it showed.

    Of each image the same number of patch embeddings is corrupted, rounded down: each becomes a
    learned [mask], another patch of the image, or stays.  Then positions are added, so that a mask
    knows its place.  The loss is the mean over all corrupted patches, those that stay among them.

    Args:
        ratio: Share of an image's patches that are corrupted, in (0, 1).
        target: `"mean_color"`, the mean color of the patch at 3 bits a channel (512 classes);
            `"color_4x4"`, the same for each of the 4 x 4 parts; `"pixels"`, all its values as they
            go into the model, by the mean squared error.
        proportions: Shares of the corrupted patches that become a mask, become another patch, and
            stay.
    """

    ratio: float = RATIO
    target: str = "mean_color"
    proportions: tuple[float, float, float] = PROPORTIONS
    uses_labels = False
    # What `build` finds out; no fields, which are what the objective is.
    _base = _patches = None

    def build(self, model, info):
        """The model with a [mask] and a head for the target.

        Raises:
            ValueError: For a model without patches of its own, or patches that the target does not
                fit.
        """
        cut = patches.patches_of(model, "masked_patches")
        self._base, self._patches = model, cut
        self._check(cut)
        policy = model.dtype_policy
        sources = keras.Input((cut.number,), dtype="int32", name="sources")
        corrupted = keras.Input((self._number,), dtype="int32", name="corrupted")
        embeddings = model.get_layer("tokens").output  # (B, N, D)
        encoder = keras.Model(embeddings, model.get_layer("encoder_norm").output, name="encoder")
        tokens = GatherOrMask(dtype=policy, name="mask_embedding")([embeddings, sources])
        tokens = encoder(tokens)  # (B, T, D)
        leading = model.config.num_leading_tokens
        chosen = GatherTokens(leading, keeps_leading=False, dtype=policy, name="corrupted_tokens")(
            [tokens, corrupted]
        )  # (B, M, D)
        outputs = patch_head(chosen, _outputs_of(self.target, cut), policy, "patch_head")
        inputs = {"images": model.input, "sources": sources, "corrupted": corrupted}
        trained = TrainableModel(inputs, outputs, name="masked_patches")
        trained.dtype_policy = policy
        return trained

    @property
    def _number(self):
        return patches.share_of(self._patches.number, self.ratio, "mask_ratio")

    def _check(self, cut):
        _ = self._number
        if self.target != "pixels" and cut.channels > patches.MAX_COLOR_CHANNELS:
            raise ValueError(
                f"a target of colors needs images of at most {patches.MAX_COLOR_CHANNELS} "
                f"channels. Received: {cut.channels}; set mask_target='pixels'"
            )
        if self.target == "color_4x4" and any(side % patches.DOWNSIZED for side in cut.size):
            raise ValueError(
                f"the target 'color_4x4' needs a patch size that 4 divides. Received: {cut.size}"
            )

    def targets(self, image, label, seed):
        cut = self._patches
        corrupted, sources = patches.draw_corruption(
            cut.number, seed, self._number, self.proportions
        )
        values = {
            "mean_color": cut.mean_colors,
            "color_4x4": cut.downsized_colors,
            "pixels": cut.pixels,
        }[self.target](image)
        x = {"images": image, "sources": sources, "corrupted": corrupted}
        return x, tf.gather(values, corrupted)

    def loss(self):
        if self.target == "pixels":
            return keras.losses.MeanSquaredError()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        if self.target == "pixels":
            return []
        num_colors = _num_colors(self._patches)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        return [accuracy, CommonestTarget(num_colors), TargetEntropy(num_colors)]

    def finish(self, model):
        """The encoder alone, without the [mask] and the head."""
        return self._base


def _outputs_of(target, cut):
    """The shape of a patch's prediction."""
    num_colors = _num_colors(cut)
    return {
        "mean_color": (num_colors,),
        "color_4x4": (patches.DOWNSIZED**2, num_colors),
        "pixels": (cut.num_values,),
    }[target]


def _num_colors(cut):
    return patches.COLOR_LEVELS**cut.channels


def patch_head(tokens, shape, policy, name):
    """A linear prediction for each token, in float32 whatever the policy: (B, M, D) -> (B, M, ...).

    Args:
        tokens: (B, M, D).
        shape: Of the prediction for one token.
        policy: dtype policy of the model.
        name: Of the layer.
    """
    if policy.compute_dtype != policy.variable_dtype:
        policy = policy.variable_dtype
    outputs = keras.layers.Dense(
        math.prod(shape),
        kernel_initializer=initializers.xavier_uniform(tokens.shape[-1], math.prod(shape)),
        dtype=policy,
        name=name,
    )(tokens)
    if len(shape) == 1:
        return outputs
    return keras.layers.Reshape((tokens.shape[1], *shape), dtype=policy)(outputs)


class _OfTargets(keras.metrics.Metric):
    """Counts how often each class was a target.

    Args:
        num_classes: Number of classes.
        name: Name of the metric.
        dtype: Of the computation.
    """

    def __init__(self, num_classes, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.counts = self.add_variable((num_classes,), "zeros", dtype="float32", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        ones = ops.ones_like(labels, dtype="float32")
        self.counts.assign_add(ops.segment_sum(ones, labels, num_segments=self.num_classes))

    def _shares(self):
        return self.counts / ops.maximum(ops.sum(self.counts), 1.0)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package="keras_vit")
class CommonestTarget(_OfTargets):
    """Accuracy of always guessing the commonest target, to be beaten by a model's."""

    def __init__(self, num_classes, name="commonest_target", dtype=None):
        super().__init__(num_classes, name, dtype)

    def result(self):
        return ops.max(self._shares())


@keras.saving.register_keras_serializable(package="keras_vit")
class TargetEntropy(_OfTargets):
    """Entropy of the targets in nats: the cross-entropy of guessing by their frequencies."""

    def __init__(self, num_classes, name="target_entropy", dtype=None):
        super().__init__(num_classes, name, dtype)

    def result(self):
        shares = self._shares()
        return -ops.sum(shares * ops.log(ops.maximum(shares, 1e-30)))


def from_recipe(recipe):
    """The objective with the recipe's fields, or what the paper chose."""
    return MaskedPatches(
        **given(
            ratio=recipe.mask_ratio,
            target=recipe.mask_target,
            proportions=recipe.mask_proportions,
        )
    )


def given(**values):
    """What is not None."""
    return {name: value for name, value in values.items() if value is not None}
