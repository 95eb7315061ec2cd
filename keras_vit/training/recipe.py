"""Recipes: everything that decides a training but the data and the weights it starts from, as data.

Imports nothing heavy, so that the command's help can list them.
"""

import dataclasses
import functools
import typing
from typing import Any

from keras_vit.training.recipe_checks import MODES, SAMPLING, check_classes, check_monitor
from keras_vit.training.recipe_objectives import (
    DECODERS,
    DISTILLATIONS,
    MASK_TARGETS,
    OBJECTIVES,
    check_objective_fields,
    choose_loss,
)
from keras_vit.training.recipe_objects import described, is_known, is_object_or_name
from keras_vit.training.recipe_values import check_tune, typed

OPTIMIZERS = ("adamw", "sgd")
DECAYS = ("linear", "cosine", "constant", "staircase")
LOSSES = ("softmax", "sigmoid", "mse", "mae", "huber")
MOMENTUM_DTYPES = ("float32", "bfloat16")
DECAYED = ("all", "kernels")
RESIZE_RULES = ("squash", "short_side")
ORIENTATIONS = ("exif",)
POSITION_EMBEDDINGS = (
    *("learned", "learned2d", "sincos2d", "sincos2d_mae"),
    *("relative", "relative_per_head", "none"),
)
POSITION_LOCATIONS = ("stem", "every_layer", "every_layer_shared")
DTYPES = ("float32", "bfloat16", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Exactly one of `steps` and `epochs` says how long.

    Args:
        source: where its numbers come from.
        dataset: what it is for, where the user names nothing else.
        steps: number of updates, the warm-up's among them.
        epochs: how often each example is seen; the steps are rounded down to whole batches.
        batch_size: examples in one update, over all devices.
        accumulation_steps: micro-batches that a batch is computed in, to save memory.
        remat: whether the encoder's blocks are computed again for their gradients, to save memory.
        objective: What is learned, `"supervised"` (one class an image), `"multilabel"` (several
            labels), `"regression"` (values), `"distillation"` (one class, and what `teacher` says),
            `"segmentation"` (a class for each pixel), or without labels `"masked_patches"` or
            `"mae"`; or an object of that protocol (`keras_vit.training.objectives.base.Objective`).
        teacher: What `from_pretrained` takes, or a model with the classes of the data; of
            `"distillation"`, as the next three.
        distillation: `"soft"` or `"hard"`, its highest logit alone; None takes soft.
        temperature: What the logits of both are divided by, positive; None takes 3.
        distillation_weight: Share of the teacher in the loss, in (0, 1]; None takes 0.1, and of
            hard 0.5.
        mask_ratio: Share of an image's patches that are hidden, in (0, 1); without labels only, as
            the next six; None takes the objective's, 0.5 and for `"mae"` 0.75.
        mask_target: What a hidden patch is to be known by, `"mean_color"`, `"color_4x4"` or
            `"pixels"`; of `"masked_patches"`, None takes the first.
        mask_proportions: Shares of the hidden patches that become a mask, become another patch, and
            stay; of `"masked_patches"`, None takes 0.8, 0.1 and 0.1.
        normalize_pixels: Whether `"mae"` predicts each patch's pixels with mean 0 and deviation 1;
            None does.
        decoder_hidden_size: Width of the decoder of `"mae"`; None takes 512, and of `"mask"`, see
            `decoder`, that of the model.
        decoder_depth: Number of its blocks; None takes 8, and of `"mask"` 2.
        decoder_num_heads: Number of its heads; None takes 16, and of `"mask"` one for each 64.
        decoder: `"linear"` or `"mask"`, of `"segmentation"`, as the next four; None: the first.
        decoder_dropout: Rate in the blocks of `"mask"`; None takes 0.
        scale_range: Least and greatest scale of an image and its mask; None takes 0.5 and 2.
        mirror: Whether both are mirrored with probability one half; None does.
        window_stride: (vertical, horizontal) pixels between two windows at inference, or one
            integer; None takes the size of a window.
        tune: What a fine-tuning trains, `"all"`, `"head"`, `"last:N"` blocks, `"norms"`, `"bias"`
            or `"lora:R"`, or a function of variable paths, as
            `keras_vit.training.tuning.set_tune`; None trains all.
        lora_alpha: Of LoRA, whose product is multiplied by alpha / R; None takes R.
        lora_dropout: Rate on what goes into LoRA's matrices, in [0, 1); None is 0.
        lora_targets: Kernels that LoRA adapts, of `"query"`, `"key"`, `"value"`, `"output"` and
            `"mlp"`; None takes all.
        layer_decay: Factor of the rate from each block to the one before it, in [0, 1], in a
            fine-tuning (`keras_vit.training.tuning.rate_factors`); None is 1.
        head_rate_factor: Factor of the head's rate, in a fine-tuning; None is 1.
        optimizer: `"adamw"` (betas 0.9 and `beta_2`) or `"sgd"` (momentum 0.9); or a Keras
            optimizer, which is taken as it is: the fields from `beta_2` to `global_clipnorm` are
            those of the names.
        beta_2: AdamW's factor of the second moment.
        momentum_dtype: of the optimizer's first moment, `"float32"` or `"bfloat16"`.
        learning_rate: the highest rate.
        learning_rates: the rates that a sweep tries.
        schedule: A Keras `LearningRateSchedule` in the place of `learning_rate`, `decay` and
            `warmup_steps`.
        decay: `"linear"` (to 1e-5), `"cosine"` (to 0), `"constant"` or `"staircase"` (to a tenth
            after each of `boundaries`), after the warm-up.
        boundaries: steps, of the staircase only.
        warmup_steps: updates until the rate is `learning_rate`, linearly from 0.
        weight_decay: decoupled and multiplied by the rate, the meaning of the paper's Table 3.
        weight_decay_on: `"all"` variables, or `"kernels"` alone, as in big_vision.
        ema: factor of the moving average of the weights, which is what is evaluated and written
            (Polyak averaging); None keeps none.
        global_clipnorm: largest norm of the whole gradient; None does not clip.
        loss: `"softmax"` or `"sigmoid"` cross-entropy, summed over the classes; of several labels
            `"sigmoid"`, of a regression `"mse"`, `"mae"` or `"huber"`, the first without another;
            or a Keras loss.
        metrics: Keras metrics of the training's reports in the place of the objective's.
        class_weights: What an image counts in the loss by its class, `"balanced"` or a number for
            each; of `"segmentation"` what a pixel counts, a number for each; None is 1 for all.
        sampling: `"balanced"` trains on every class equally often; None on every image.
        label_smoothing: in [0, 1); see `keras_vit.training.losses`.
        dropout: rate in the model; None keeps that of the model.
        stochastic_depth: rate of the last block; None keeps that of the model.
        augmentation: a name in `keras_vit.data.images.augmentation_presets.AUGMENTATIONS`, or what
            `get_augmentation` there takes in the place of one: a tuple of operations.
        image_size: (height, width) in pixels, or one integer; None keeps that of the model.
        resize: evaluation's rule, `"squash"` or `"short_side"`; None keeps that of the model.
        resize_to: (height, width) in pixels that evaluation resizes to before its central crop.
        orientation: `"exif"` turns photographs as their EXIF tag says, in training, evaluation and
            the model that is written; None keeps what the model does.
        report_steps: updates between two rows of the history, each with a validation.
        monitor: Key of the reports, such as `"validation/accuracy"`: the weights of the report in
            which it is best are written; None writes the last ones.
        mode: `"min"` or `"max"` is best; None takes min for losses and errors.
        patience: Number of reports without improvement that ends the training; None never ends it.
        restore_best_weights: False writes the last weights, with `patience`; None is True.
        seed: of the weights, the order of the data, the augmentation and the dropout.
        dtype: dtype or policy of the layers; None takes the global one of Keras.
        model: a name of `keras_vit.list_models()`, for pre-training; a fine-tuning needs none.
        patch_size: P; for pre-training, like the others below; None keeps that of `model`.
        hidden_size: D.
        mlp_dim: width of the MLPs' hidden layer.
        num_heads: k.
        depth: L.
        class_token: whether a learned token is put before the patches.
        pooling: `"token"`, `"mean"` or `"attention"`.
        position_embedding: `"learned"`, `"learned2d"`, `"sincos2d"`,
            `"sincos2d_mae"`, `"relative"`, `"relative_per_head"` or `"none"`.
        position_location: `"stem"`, `"every_layer"` or `"every_layer_shared"`.
        representation_layer: whether a layer of hidden size with tanh is put before the head.
        head_bias: initial value of the head's bias.

    Raises:
        ValueError: for a value of another type, out of range or unknown.
    """

    source: str = ""
    dataset: str | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 512
    accumulation_steps: int = 1
    remat: bool = False
    objective: Any = "supervised"
    teacher: Any = None
    distillation: str | None = None
    temperature: float | None = None
    distillation_weight: float | None = None
    mask_ratio: float | None = None
    mask_target: str | None = None
    mask_proportions: tuple[float, ...] | None = None
    normalize_pixels: bool | None = None
    decoder_hidden_size: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    decoder: str | None = None
    decoder_dropout: float | None = None
    scale_range: tuple[float, ...] | None = None
    mirror: bool | None = None
    window_stride: tuple[int, int] | None = None
    tune: Any = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    lora_targets: tuple[str, ...] | None = None
    layer_decay: float | None = None
    head_rate_factor: float | None = None
    optimizer: Any = "sgd"
    beta_2: float = 0.999
    momentum_dtype: str = "float32"
    learning_rate: float = 0.03
    learning_rates: tuple[float, ...] | None = None
    schedule: Any = None
    decay: str = "cosine"
    boundaries: tuple[int, ...] | None = None
    warmup_steps: int = 0
    weight_decay: float = 0.0
    weight_decay_on: str = "all"
    ema: float | None = None
    global_clipnorm: float | None = 1.0
    loss: Any = "softmax"
    metrics: Any = None
    class_weights: Any = None
    sampling: str | None = None
    label_smoothing: float = 0.0
    dropout: float | None = None
    stochastic_depth: float | None = None
    augmentation: Any = "none"
    image_size: tuple[int, int] | None = None
    resize: str | None = None
    resize_to: tuple[int, int] | None = None
    orientation: str | None = None
    report_steps: int = 100
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = None
    restore_best_weights: bool | None = None
    seed: int = 0
    dtype: str | None = None
    model: str | None = None
    patch_size: int | None = None
    hidden_size: int | None = None
    mlp_dim: int | None = None
    num_heads: int | None = None
    depth: int | None = None
    class_token: bool | None = None
    pooling: str | None = None
    position_embedding: str | None = None
    position_location: str | None = None
    representation_layer: bool | None = None
    head_bias: float | None = None

    def __post_init__(self):
        for field, kind in FIELD_TYPES.items():
            object.__setattr__(self, field, typed(field, getattr(self, field), kind))
        choose_loss(self)
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "a recipe must have either `steps` or `epochs`. "
                f"Received: steps={self.steps}, epochs={self.epochs}"
            )
        for field in (
            *("steps", "epochs", "batch_size", "accumulation_steps", "learning_rate"),
            *("report_steps", "patch_size", "hidden_size", "mlp_dim", "num_heads", "depth"),
            *("decoder_hidden_size", "decoder_depth", "decoder_num_heads", "temperature"),
        ):
            self._check(field, lambda value: value > 0, "positive")
        self._check("mask_ratio", lambda value: 0 < value < 1, "in (0, 1)")
        self._check("distillation_weight", lambda value: 0 < value <= 1, "in (0, 1]")
        self._check(
            "mask_proportions",
            lambda shares: len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6,
            "three shares that sum to 1",
        )
        for field in ("warmup_steps", "weight_decay", "head_rate_factor", "patience"):
            self._check(field, lambda value: value >= 0, "at least 0")
        self._check(
            "scale_range", lambda ends: len(ends) == 2 and 0 < ends[0] <= ends[1], "two that rise"
        )
        rates = ("dropout", "decoder_dropout", "stochastic_depth", "lora_dropout")
        for field in ("label_smoothing", *rates, "ema", "beta_2"):
            self._check(field, lambda value: 0 <= value < 1, "in [0, 1)")
        self._check("global_clipnorm", lambda value: value > 0, "positive, or none")
        self._check("layer_decay", lambda value: 0 <= value <= 1, "in [0, 1]")
        self._check("seed", lambda value: 0 <= value < 2**31, "in [0, 2**31)")
        for field in ("image_size", "resize_to", "window_stride", "learning_rates"):
            self._check(field, lambda numbers: numbers and min(numbers) > 0, "positive")
        self._check(
            "boundaries", lambda steps: steps and list(steps) == sorted(set(steps)), "rising"
        )
        for field, known in (
            ("objective", OBJECTIVES),
            ("mask_target", MASK_TARGETS),
            ("decoder", DECODERS),
            ("distillation", DISTILLATIONS),
            ("optimizer", OPTIMIZERS),
            ("momentum_dtype", MOMENTUM_DTYPES),
            ("decay", DECAYS),
            ("weight_decay_on", DECAYED),
            ("resize", RESIZE_RULES),
            ("orientation", ORIENTATIONS),
            ("position_embedding", POSITION_EMBEDDINGS),
            ("position_location", POSITION_LOCATIONS),
            ("loss", LOSSES),
            ("mode", MODES),
            ("sampling", SAMPLING),
            ("dtype", DTYPES),
        ):
            is_good = functools.partial(is_known, known=known, objects=field in _OBJECT_METHODS)
            self._check(field, is_good, f"one of {known}")
        for field, (methods, rule) in _OBJECT_METHODS.items():
            if not is_object_or_name(field, getattr(self, field), methods):
                raise ValueError(f"`{field}` must be {rule}. Received: {getattr(self, field)!r}")
        check_tune(self)
        check_objective_fields(self)
        check_monitor(self)
        check_classes(self)
        if (self.boundaries is not None) != (self.decay == "staircase"):
            raise ValueError(
                "`boundaries` must be given for the staircase and for no other decay. "
                f"Received: {self.boundaries} for {self.decay!r}"
            )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                "`batch_size` must be a multiple of `accumulation_steps`. "
                f"Received: {self.batch_size} and {self.accumulation_steps}"
            )
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                "`warmup_steps` must be less than `steps`. "
                f"Received: warmup_steps={self.warmup_steps}, steps={self.steps}"
            )

    def _check(self, field, is_good, rule):
        value = getattr(self, field)
        if value is not None and not is_good(value):
            raise ValueError(f"`{field}` must be {rule}. Received: {value!r}")

    def describe(self):
        """The fields as JSON can hold them; objects by their class and their configuration."""
        return {
            field.name: described(getattr(self, field.name)) for field in dataclasses.fields(self)
        }

    def num_steps(self, num_examples):
        """The number of updates on a data set of that size.

        Raises:
            ValueError: if there is none, or the warm-up takes them all.

        >>> Recipe(epochs=3, batch_size=64).num_steps(1000)
        46
        """
        if num_examples < 1:
            raise ValueError(f"a training must have examples. Received: {num_examples}")
        if self.steps is not None:
            return self.steps
        steps = int(self.epochs * num_examples / self.batch_size)
        if steps < 1 or self.warmup_steps >= steps:
            raise ValueError(
                f"{self.epochs:g} epochs of {num_examples} examples in batches of "
                f"{self.batch_size} are {steps} steps, and `warmup_steps` must be less. "
                f"Received: warmup_steps={self.warmup_steps}; give more `epochs`, a smaller "
                "`batch_size` or `steps`"
            )
        return steps

    def rates(self):
        """The fields of a model's configuration that the recipe sets for any model, by name."""
        return self._given(("dropout", "stochastic_depth"))

    def architecture(self):
        """The fields of a model's configuration that the recipe sets for a new model, by name."""
        return self._given(ARCHITECTURE_FIELDS)

    def _given(self, fields):
        values = {field: getattr(self, field) for field in fields}
        return {field: value for field, value in values.items() if value is not None}


# What changes the architecture of `model`; a fine-tuning takes its architecture from a file.
ARCHITECTURE_FIELDS = (
    *("patch_size", "hidden_size", "mlp_dim", "num_heads"),
    *("depth", "class_token", "pooling", "position_embedding"),
    *("position_location", "representation_layer", "head_bias"),
)

# Field -> (methods of the objects that it takes beside names, what it must be).
_OBJECT_METHODS = {
    "objective": (
        ("build", "targets", "loss", "metrics", "finish"),
        f"one of {OBJECTIVES}, or an object of the protocol `Objective`",
    ),
    "tune": (("__call__",), "a name, a function of variable paths, or none"),
    "optimizer": (("apply", "get_config"), f"one of {OPTIMIZERS}, or a Keras optimizer"),
    "schedule": (("get_config", "__call__"), "a Keras learning rate schedule, or none"),
    "loss": (("__call__",), f"one of {LOSSES}, or a Keras loss"),
    "metrics": (("update_state", "get_config"), "a list of Keras metrics, or none"),
    "augmentation": ((), "a name or an augmentation"),
}
FIELD_TYPES = typing.get_type_hints(Recipe)
