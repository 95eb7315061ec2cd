"""Knowledge distillation: a model learns what another one answers, beside the labels.

Shapes: B batch, C classes.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.evaluators.classification import Classification, class_order
from keras_vit.models.classifier import preprocessing_of
from keras_vit.models.pixel_model import network_of
from keras_vit.train_step import TrainableModel
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.objectives.masked_patches import given
from keras_vit.training.objectives.supervised import Accuracy
from keras_vit.zoo import loading

SOFT, HARD = "soft", "hard"
# Share of the teacher, of DeiT (arXiv:2012.12877, sections 4 and 5).
WEIGHTS = {SOFT: 0.1, HARD: 0.5}
TEMPERATURE = 3.0


@dataclasses.dataclass
class Distillation:
    """Learns labels and the answers of a teacher, which sees the same augmented images.

    Soft (arXiv:1503.02531; Eq. 2 of arXiv:2012.12877): (1 - w) cross-entropy(labels) + w T^2
    KL(softmax(teacher / T), softmax(student / T)).  Hard (Eq. 3 there): (1 - w)
    cross-entropy(labels) + w cross-entropy(the class of the teacher's highest logit).

    The teacher is frozen and in inference mode.  It is in the states of a run, and not in the model
    that is written.

    Args:
        teacher: What `keras_vit.from_pretrained` takes, or a model; it has the classes of the data.
        kind: `"soft"` or `"hard"`.
        temperature: T of the soft one, positive; None takes 3.
        weight: w in (0, 1]; None takes 0.1 of the soft one, and of the hard one 0.5.
        label_smoothing: Of the labels, in [0, 1).
    """

    teacher: Any
    kind: str = SOFT
    temperature: float | None = None
    weight: float | None = None
    label_smoothing: float = 0.0
    task = CLASSIFICATION
    keeps_targets = True
    # The model that learns; no field, which are what the objective is.
    _student = None

    def build(self, model, info):
        """The model and its teacher side by side: (B, 2 C) logits.

        Raises:
            CheckpointError: If the teacher cannot be read.
            ValueError: For a teacher with other classes, or images of other channels.
            TypeError: For a teacher that is no model.
        """
        model.task = None
        if info.num_classes < 2:
            raise ValueError(
                f"a distillation needs two classes or more. Received: {info.num_classes}"
            )
        teacher = _frozen(self.teacher)
        order = class_order(teacher, info)
        images = _for_teacher(model, teacher)
        logits = ops.cast(teacher(images, training=False), "float32")
        logits = logits if order is None else ops.take(logits, order, axis=-1)
        self._student = model
        outputs = ops.concatenate([ops.cast(model.output, "float32"), logits], axis=-1)
        trained = TrainableModel(model.input, outputs, name="distillation")
        trained.dtype_policy = model.dtype_policy
        return trained

    @property
    def tuned(self):
        """The model of which a recipe may freeze a part: never the teacher."""
        return self._student

    def targets(self, image, label, seed):
        return image, label

    def loss(self):
        weight = WEIGHTS[self.kind] if self.weight is None else self.weight
        return DistillationLoss(
            self.kind, self.temperature or TEMPERATURE, weight, self.label_smoothing
        )

    def metrics(self):
        return [StudentAccuracy()]

    def finish(self, model):
        return self._student

    def evaluators(self, info, split, batch_size):
        return [Classification(split, dataset=info, batch_size=batch_size)]


def _frozen(source):
    """A teacher of one's own, so that nothing happens to the caller's model."""
    if isinstance(source, keras.Model):
        given_model = network_of(source)
        teacher = type(given_model).from_config(given_model.get_config())
        teacher.set_weights(given_model.get_weights())
        for name in ("preprocessing", "class_names"):
            if getattr(teacher, name, None) is None and hasattr(given_model, name):
                setattr(teacher, name, getattr(given_model, name))
    elif isinstance(source, str):
        teacher = loading.from_pretrained(source)
    else:
        raise TypeError(
            f"`teacher` must be a name, a path or a keras.Model. Received: {type(source).__name__}"
        )
    teacher.trainable = False
    return teacher


def _for_teacher(model, teacher):
    """The images of a model as another one wants them: (x a + b), resized."""
    ours, theirs = preprocessing_of(model), preprocessing_of(teacher)
    if ours.channels != theirs.channels:
        raise ValueError(
            f"`teacher` must take images of {ours.channels} channels. Received: {theirs.channels}"
        )
    images = model.input
    (scale, offset), (their_scale, their_offset) = _affine(ours), _affine(theirs)
    factors = [new / old for new, old in zip(their_scale, scale, strict=True)]
    shifts = [
        new - old * factor for new, old, factor in zip(their_offset, offset, factors, strict=True)
    ]
    if any(factor != 1.0 for factor in factors) or any(shifts):
        images = keras.layers.Rescaling(factors, shifts, name="teacher_values")(images)
    if theirs.image_size != ours.image_size:
        size = theirs.image_size
        images = keras.layers.Resizing(*size, name="teacher_size")(images)
    return images


def _affine(rule):
    """(scale, offset) for each channel: what [0, 1] becomes."""
    low, high = rule.value_range
    mean = rule.mean or (0.0,) * rule.channels
    std = rule.std or (1.0,) * rule.channels
    return [(high - low) / s for s in std], [(low - m) / s for m, s in zip(mean, std, strict=True)]


@keras.saving.register_keras_serializable(package="keras_vit")
class DistillationLoss(keras.losses.Loss):
    """See `Distillation`.

    Args:
        kind: `"soft"` or `"hard"`.
        temperature: T.
        weight: w.
        label_smoothing: Of the labels.
        name: Of the loss.
        reduction: Of Keras.
        dtype: Of the computation.

    Call arguments:
        y_true: (B,) integer labels, or (B, C) shares of the classes.
        y_pred: (B, 2 C), the logits of the student and of the teacher.

    Returns:
        The mean over the batch.
    """

    def __init__(
        self,
        kind=SOFT,
        temperature=TEMPERATURE,
        weight=0.5,
        label_smoothing=0.0,
        name="distillation",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.kind, self.temperature, self.weight = kind, temperature, weight
        self.label_smoothing = label_smoothing

    def get_config(self):
        names = ("kind", "temperature", "weight", "label_smoothing")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def call(self, y_true, y_pred):
        student, teacher = ops.split(y_pred, 2, axis=-1)  # (B, C) each
        of_labels = SoftmaxCrossentropy(self.label_smoothing).call(y_true, student)
        if self.kind == HARD:
            of_teacher = SoftmaxCrossentropy().call(ops.argmax(teacher, axis=-1), student)
        else:
            wanted = ops.log_softmax(teacher / self.temperature)
            found = ops.log_softmax(student / self.temperature)
            of_teacher = ops.sum(ops.exp(wanted) * (wanted - found), axis=-1) * self.temperature**2
        return (1.0 - self.weight) * of_labels + self.weight * of_teacher  # (B,)


@keras.saving.register_keras_serializable(package="keras_vit")
class StudentAccuracy(Accuracy):
    """`Accuracy` of the first half of (B, 2 C) logits."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        student = y_pred[:, : y_pred.shape[-1] // 2]
        return super().update_state(y_true, student, sample_weight)


def from_recipe(recipe):
    """The objective with the recipe's fields."""
    fields = given(
        kind=recipe.distillation,
        temperature=recipe.temperature,
        weight=recipe.distillation_weight,
    )
    return Distillation(recipe.teacher, label_smoothing=recipe.label_smoothing, **fields)
