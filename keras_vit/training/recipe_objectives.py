"""The objectives that a recipe can name: the fields and the losses of each.

Imports nothing heavy (see `keras_vit.training.recipe`).
"""

OBJECTIVES = (
    *("supervised", "multilabel", "regression", "distillation"),
    *("segmentation", "masked_patches", "mae"),
)
# The fields of one objective alone, by its name.
OBJECTIVE_FIELDS = {
    "distillation": ("teacher", "distillation", "temperature", "distillation_weight"),
    "masked_patches": ("mask_ratio", "mask_target", "mask_proportions"),
    "mae": (
        *("mask_ratio", "normalize_pixels"),
        *("decoder_hidden_size", "decoder_depth", "decoder_num_heads"),
    ),
    "segmentation": (
        *("decoder", "decoder_hidden_size", "decoder_depth", "decoder_num_heads"),
        *("decoder_dropout", "scale_range", "mirror", "window_stride"),
    ),
}
# Those whose losses smooth labels.
SMOOTHED = ("supervised", "multilabel", "distillation")
DECODERS = ("linear", "mask")
DISTILLATIONS = ("soft", "hard")
MASK_TARGETS = ("mean_color", "color_4x4", "pixels")
# The losses of an objective with labels; the first is taken in the place of the default.
OBJECTIVE_LOSSES = {
    "supervised": ("softmax", "sigmoid"),
    "multilabel": ("sigmoid",),
    "regression": ("mse", "mae", "huber"),
    "distillation": ("softmax",),
    "segmentation": ("softmax",),
}


def choose_loss(recipe):
    """Has a recipe take its objective's loss in the place of the default.

    Raises:
        ValueError: For the loss of another objective.
    """
    objective, loss = recipe.objective, recipe.loss
    known = OBJECTIVE_LOSSES.get(objective) if isinstance(objective, str) else None
    if known is None or not isinstance(loss, str) or loss in known:
        return
    if loss != OBJECTIVE_LOSSES["supervised"][0]:
        raise ValueError(
            f"`loss` must be one of {known} for the objective {objective!r}. Received: {loss!r}"
        )
    object.__setattr__(recipe, "loss", known[0])


def check_objective_fields(recipe):
    """Raises ValueError for a field that a recipe's objective does not have."""
    objective = recipe.objective
    if recipe.label_smoothing and isinstance(objective, str) and objective not in SMOOTHED:
        raise ValueError(
            f"`label_smoothing` is of the objectives {', '.join(SMOOTHED)}. Received: "
            f"{recipe.label_smoothing} for {objective!r}; pass label_smoothing=0"
        )
    if objective == "distillation" and recipe.teacher is None:
        raise ValueError(
            "the objective 'distillation' needs a `teacher`, a name, a path or a model. "
            "Received: none"
        )
    if recipe.distillation == "hard" and recipe.temperature is not None:
        raise ValueError(
            "`temperature` is of distillation='soft'. Received: "
            f"{recipe.temperature} for 'hard', which goes by the teacher's highest logit"
        )
    own = OBJECTIVE_FIELDS.get(objective, ()) if isinstance(objective, str) else ()
    for field in dict.fromkeys(sum(OBJECTIVE_FIELDS.values(), ())):
        if field not in own and getattr(recipe, field) is not None:
            whose = [name for name, fields in OBJECTIVE_FIELDS.items() if field in fields]
            raise ValueError(
                f"`{field}` is of the objectives {', '.join(whose)}. Received: "
                f"{getattr(recipe, field)!r} for {objective!r}"
            )
