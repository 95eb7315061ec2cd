"""The same graph of work with tiny models on the embedded digits: minutes instead of months.

What it measures says nothing about the paper, but that all runs, evaluations and tables work.
"""

import dataclasses

from keras_vit.models.presets import list_models
from keras_vit.paper.work import CHECKPOINT, FINETUNE, PRETRAIN

STEPS = 10
_BATCH_SIZE = 32
# The data set of a pre-training, and that of all else: they share no class.
_UPSTREAM, _DOWNSTREAM = "digits/upstream", "digits/downstream"
# The few-shot data set must have the shots in its training split, as the paper's have.
_IMAGE_SIZES = {"hybrid": 32, "other": 16}

_VIT = {"hidden_size": 16, "mlp_dim": 32, "num_heads": 2, "depth": 1}
_KEPT = ("position_embedding", "position_location", "class_token", "pooling")
_RESNET = {"stage_depths": (1, 1), "width_factor": 0.5}


def shrink(experiment):
    """The tiny form of an experiment: the same runs and cells.

    Args:
        experiment: `Experiment`.

    Returns:
        An `Experiment`.
    """
    return dataclasses.replace(
        experiment,
        title=f"{experiment.title} (tiny: digits, {STEPS} steps)",
        runs=tuple(map(_shrink, experiment.runs)),
        notes=("Tiny models on the digits: the numbers say nothing about the paper's experiment",),
    )


def _shrink(run):
    is_ours = run.model in list_models()
    if run.kind == CHECKPOINT and is_ours:
        # Instead of a released file a model is trained.
        return dataclasses.replace(
            run,
            kind=PRETRAIN,
            checkpoint=None,
            dataset=_UPSTREAM,
            recipe="digits_pretrain",
            changes=_changes(run),
            architecture=_architecture(run),
        )
    if run.kind == PRETRAIN:
        return dataclasses.replace(
            run,
            few_shot_dataset=run.few_shot_dataset and _DOWNSTREAM,
            dataset=_UPSTREAM,
            recipe="digits_pretrain",
            changes=_changes(run),
            architecture=_architecture(run),
            train_split="train" + run.train_split.removeprefix("train"),
        )
    if run.kind == FINETUNE:
        changes = {"steps": STEPS, "warmup_steps": 2, "batch_size": _BATCH_SIZE}
        if "seed" in run.changes:
            changes["seed"] = run.changes["seed"]
        if is_ours:
            changes["image_size"] = (_image_size(run) * 3 // 2,) * 2
        changes["learning_rates"] = None  # one training, no choice between rates
        changes["dropout"] = None  # ResNets have none
        return dataclasses.replace(
            run,
            dataset=_DOWNSTREAM,
            recipe="digits_finetune",
            changes=changes,
            architecture=_architecture(run),
            train_split="train",
        )
    return dataclasses.replace(run, dataset=_DOWNSTREAM, architecture=_architecture(run))


def _changes(run):
    changes = {"steps": STEPS, "warmup_steps": 2, "batch_size": _BATCH_SIZE}
    if "optimizer" in run.changes:
        changes |= {"optimizer": run.changes["optimizer"], "learning_rate": 0.01}
    return changes | {"image_size": (_image_size(run),) * 2}


def _image_size(run):
    return _IMAGE_SIZES["hybrid" if _is_hybrid(run) else "other"]


def _is_hybrid(run):
    return "+ViT" in run.model


def _architecture(run):
    """Fields that make a model of any family tiny."""
    if run.model not in list_models():
        return {}
    kept = {name: value for name, value in run.architecture.items() if name in _KEPT}
    if run.model.startswith("BiT"):
        return kept | _RESNET
    if run.model.startswith("AxialResNet"):
        return kept | _RESNET | {"num_heads": 4}
    if run.architecture.get("representation_size"):
        kept["representation_size"] = _VIT["hidden_size"]
    if _is_hybrid(run):
        return kept | _VIT | _RESNET | {"patch_size": 1}
    return kept | _VIT | {"patch_size": 8 if run.model.endswith("/32") else 4}
