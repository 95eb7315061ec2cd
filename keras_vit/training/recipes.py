"""Recipes: everything that decides a training but the data and the weights it starts from, as data.

Imports nothing heavy, so that the command's help can list them.
"""

import dataclasses
import difflib
import math
import types
import typing

OPTIMIZERS = ("adamw", "sgd")
DECAYS = ("linear", "cosine", "constant", "staircase")
LOSSES = ("softmax", "sigmoid")
MOMENTUM_DTYPES = ("float32", "bfloat16")
DECAYED = ("all", "kernels")
RESIZE_RULES = ("squash", "short_side")
POSITION_EMBEDDINGS = ("learned", "sincos2d")
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
        optimizer: `"adamw"` (betas 0.9 and 0.999) or `"sgd"` (momentum 0.9).
        momentum_dtype: of the optimizer's first moment, `"float32"` or `"bfloat16"`.
        learning_rate: the highest rate.
        learning_rates: the rates that a sweep tries.
        decay: `"linear"` (to 1e-5), `"cosine"` (to 0), `"constant"` or `"staircase"` (to a tenth
            after each of `boundaries`), after the warm-up.
        boundaries: steps, of the staircase only.
        warmup_steps: updates until the rate is `learning_rate`, linearly from 0.
        weight_decay: decoupled and multiplied by the rate, the meaning of the paper's Table 3.
        weight_decay_on: `"all"` variables, or `"kernels"` alone, as in big_vision.
        ema: factor of the moving average of the weights, which is what is evaluated and written
            (Polyak averaging); None keeps none.
        global_clipnorm: largest norm of the whole gradient; None does not clip.
        loss: `"softmax"` or `"sigmoid"` cross-entropy, summed over the classes.
        label_smoothing: in [0, 1); see `keras_vit.training.losses`.
        dropout: rate in the model; None keeps that of the model.
        stochastic_depth: rate of the last block; None keeps that of the model.
        augmentation: a name in `keras_vit.data.preprocess.AUGMENTATIONS`.
        image_size: (height, width) in pixels, or one integer; None keeps that of the model.
        resize: evaluation's rule, `"squash"` or `"short_side"`; None keeps that of the model.
        resize_to: (height, width) in pixels that evaluation resizes to before its central crop.
        report_steps: updates between two rows of the history, each with a validation.
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
        position_embedding: `"learned"` or `"sincos2d"`.
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
    optimizer: str = "sgd"
    momentum_dtype: str = "float32"
    learning_rate: float = 0.03
    learning_rates: tuple[float, ...] | None = None
    decay: str = "cosine"
    boundaries: tuple[int, ...] | None = None
    warmup_steps: int = 0
    weight_decay: float = 0.0
    weight_decay_on: str = "all"
    ema: float | None = None
    global_clipnorm: float | None = 1.0
    loss: str = "softmax"
    label_smoothing: float = 0.0
    dropout: float | None = None
    stochastic_depth: float | None = None
    augmentation: str = "none"
    image_size: tuple[int, int] | None = None
    resize: str | None = None
    resize_to: tuple[int, int] | None = None
    report_steps: int = 100
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
    representation_layer: bool | None = None
    head_bias: float | None = None

    def __post_init__(self):
        for field, kind in _FIELD_TYPES.items():
            object.__setattr__(self, field, _typed(field, getattr(self, field), kind))
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "a recipe must have either `steps` or `epochs`. "
                f"Received: steps={self.steps}, epochs={self.epochs}"
            )
        for field in ("steps", "epochs", "batch_size", "accumulation_steps", "learning_rate"):
            self._check(field, lambda value: value > 0, "positive")
        for field in ("report_steps", "patch_size", "hidden_size", "mlp_dim", "num_heads", "depth"):
            self._check(field, lambda value: value > 0, "positive")
        for field in ("warmup_steps", "weight_decay"):
            self._check(field, lambda value: value >= 0, "at least 0")
        for field in ("label_smoothing", "dropout", "stochastic_depth", "ema"):
            self._check(field, lambda value: 0 <= value < 1, "in [0, 1)")
        self._check("global_clipnorm", lambda value: value > 0, "positive, or none")
        self._check("seed", lambda value: 0 <= value < 2**31, "in [0, 2**31)")
        for field in ("image_size", "resize_to", "learning_rates"):
            self._check(field, lambda numbers: numbers and min(numbers) > 0, "positive")
        self._check(
            "boundaries", lambda steps: steps and list(steps) == sorted(set(steps)), "rising"
        )
        for field, known in (
            ("optimizer", OPTIMIZERS),
            ("momentum_dtype", MOMENTUM_DTYPES),
            ("decay", DECAYS),
            ("weight_decay_on", DECAYED),
            ("resize", RESIZE_RULES),
            ("position_embedding", POSITION_EMBEDDINGS),
            ("loss", LOSSES),
            ("dtype", DTYPES),
        ):
            self._check(field, lambda value, known=known: value in known, f"one of {known}")
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
    "patch_size",
    "hidden_size",
    "mlp_dim",
    "num_heads",
    "depth",
    "class_token",
    "pooling",
    "position_embedding",
    "representation_layer",
    "head_bias",
)

_FIELD_TYPES = typing.get_type_hints(Recipe)


def _split_type(kind):
    """(type without None, whether None is allowed)."""
    if isinstance(kind, types.UnionType):
        (inner,) = (option for option in typing.get_args(kind) if option is not type(None))
        return inner, True
    return kind, False


def _type_name(kind):
    inner, optional = _split_type(kind)
    names = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        tuple[int, int]: "(height, width) or an integer",
        tuple[int, ...]: "integers",
        tuple[float, ...]: "numbers",
    }
    return names[inner] + (" or none" if optional else "")


def _typed(field, value, kind):
    """`value` as its field's type: integers where numbers are expected, sizes from one integer."""
    inner, optional = _split_type(kind)
    if value is None and optional:
        return None
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if inner is float and (is_integer or isinstance(value, float)) and math.isfinite(value):
        return float(value)
    if (inner is int and is_integer) or (inner in (bool, str) and isinstance(value, inner)):
        return value
    if inner == tuple[int, int]:
        sides = (value, value) if is_integer else value
        if isinstance(sides, tuple | list) and len(sides) == 2:
            return tuple(_typed(field, side, int) for side in sides)
    items = typing.get_args(inner)
    if len(items) == 2 and items[1] is ... and isinstance(value, tuple | list):
        return tuple(_typed(field, item, items[0]) for item in value)
    raise ValueError(f"`{field}` must be {_type_name(kind)}. Received: {value!r}")


def parse_overrides(assignments):
    """Recipe fields from the command line.

    Args:
        assignments: texts "FIELD=VALUE"; "none" is None, a size is "32" or "32,48", and
            several numbers are "0.01,0.03".

    Returns:
        A dict from field to a value of its type.

    Raises:
        ValueError: for a text without "=", an unknown or repeated field, or an ill-typed value.

    >>> parse_overrides(["learning_rate=0.01", "image_size=24,32", "epochs=none"])
    {'learning_rate': 0.01, 'image_size': (24, 32), 'epochs': None}
    """
    overrides = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        field, text = field.strip(), text.strip()
        if not equals:
            raise ValueError(f"a recipe's field is set as FIELD=VALUE. Received: {assignment!r}")
        check_field(field)
        if field in overrides:
            raise ValueError(f"a field can be set once. Received: `{field}` twice")
        overrides[field] = _parse(field, text, _FIELD_TYPES[field])
    return overrides


def _parse(field, text, kind):
    inner, optional = _split_type(kind)
    if optional and text.lower() == "none":
        return None
    try:
        if inner == tuple[int, int]:
            sides = tuple(int(side) for side in text.split(","))
            return _typed(field, sides if len(sides) > 1 else sides[0], kind)
        if typing.get_origin(inner) is tuple:
            item = typing.get_args(inner)[0]
            return _typed(field, tuple(item(part) for part in text.split(",")), kind)
        if inner is bool:
            return {"true": True, "false": False}[text.lower()]
        return _typed(field, inner(text), kind)
    except (ValueError, KeyError):
        raise ValueError(f"`{field}` must be {_type_name(kind)}. Received: {text!r}") from None


def check_field(field):
    if field not in _FIELD_TYPES:
        close = difflib.get_close_matches(field, _FIELD_TYPES, n=3) or sorted(_FIELD_TYPES)
        raise ValueError(f"a recipe has no field {field!r}. Close: {', '.join(close)}")
