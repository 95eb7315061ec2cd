"""The ablations at a size that two CPU cores train, on real images and with three seeds.

A design of the paper at a quarter of its depth and patches and a sixteenth of its width, on
Fashion-MNIST at 32 px, which is also the few-shot data set; the rates keep their ratios.  The
numbers compare the designs with each other, and not with the paper's.
"""

import dataclasses

from keras_vit.models.presets import get_preset
from keras_vit.paper.parts import JFT
from keras_vit.paper.work import FEW_SHOT, PRETRAIN
from keras_vit.training.recipe_table import get_recipe

SEEDS = (0, 1, 2)
STEPS = 400
DATASET = "fashion_mnist"
IMAGE_SIZE = 32
BATCH_SIZE = 64
# By what the paper's sizes are divided.
_DIVISORS = {
    "depth": 4,
    "patch_size": 4,
    "hidden_size": 16,
    "mlp_dim": 16,
    "representation_size": 16,
}
_KEPT = ("position_embedding", "position_location", "class_token", "pooling", "axial_attention")
# Features of a head, a quarter of the paper's.
_HEAD_SIZE = 16
_RESNET = {"stage_depths": (1, 1, 1), "width_factor": 0.5}
# Of a small model for each of the paper's: 2e-3 for Table 3's 8e-4.
_RATE_FACTOR = 2.5
# Few-shot learning chooses its images from a part, so that features need not be made of all.
_FEW_SHOT_SPLIT = "train[:10%]"


def check_small(experiment):
    """Raises ValueError for an experiment of which there is no small form."""
    kinds = {run.kind for run in experiment.runs}
    if not kinds <= {PRETRAIN, FEW_SHOT} or experiment.name == "figure4":
        raise ValueError(
            "`scale='small'` is for the ablations table8, figure8, figure9 and figure13. "
            f"Received: {experiment.name!r}, or models of your own; give 'tiny' or 'full'"
        )


def make_small(experiment):
    """The small form of an ablation: its runs once for each of `SEEDS`, and cells over them.

    Args:
        experiment: `Experiment`.

    Returns:
        An `Experiment`.

    Raises:
        ValueError: as `check_small`.
    """
    check_small(experiment)
    cells = [
        dataclasses.replace(
            cell,
            runs=tuple(_seeded(name, seed) for name in cell.runs for seed in SEEDS),
            repeats=len(SEEDS),
            published=None,
        )
        for cell in experiment.cells
    ]
    return dataclasses.replace(
        experiment,
        title=f"{experiment.title} (small: {DATASET}, {STEPS} steps, {len(SEEDS)} seeds)",
        runs=tuple(_small(run, seed) for run in experiment.runs for seed in SEEDS),
        cells=tuple(cells),
        notes=(
            f"Models of a sixteenth of the width and a quarter of the depth on {DATASET}: they "
            "compare the designs with each other, not with the paper's numbers",
            "± is the standard deviation over seeds of weights, order and dropout",
        ),
    )


def _seeded(name, seed):
    for dataset in (JFT, "imagenet2012"):
        name = name.replace(dataset, DATASET)
    return f"{name}/seed_{seed}"


def _small(run, seed):
    name = _seeded(run.name, seed)
    if run.kind == FEW_SHOT:
        return dataclasses.replace(
            run,
            name=name,
            source=_seeded(run.source, seed),
            dataset=DATASET,
            few_shot_split=_FEW_SHOT_SPLIT,
            architecture={**_architecture(run), "image_size": (IMAGE_SIZE,) * 2},
        )
    rate = _RATE_FACTOR * get_recipe(run.recipe, **run.changes).learning_rate
    changes = {
        "steps": STEPS,
        "warmup_steps": STEPS // 10,
        "batch_size": BATCH_SIZE,
        "report_steps": STEPS,
        "learning_rate": rate,
        "augmentation": "none",
        "image_size": (IMAGE_SIZE,) * 2,
        "seed": seed,
    }
    return dataclasses.replace(
        run,
        name=name,
        dataset=DATASET,
        recipe="digits_pretrain",
        changes=changes,
        architecture=_architecture(run),
        few_shot_dataset=run.few_shot_dataset and DATASET,
        few_shot_split=_FEW_SHOT_SPLIT if run.few_shot_dataset else "train",
    )


def _architecture(run):
    """Fields that make the model of a run small."""
    if run.model.startswith("BiT"):
        return _RESNET
    if run.model == "AxialResNet50":
        return {**_RESNET, "num_heads": 4}
    config = dataclasses.asdict(get_preset(run.model)) | dict(run.architecture)
    sizes = {}
    for name, divisor in _DIVISORS.items():
        value = config[name]
        if value is not None:
            value = (value[0] if isinstance(value, tuple) else value) // divisor
        sizes[name] = value
    kept = {name: config[name] for name in _KEPT}
    return {**kept, **sizes, "num_heads": sizes["hidden_size"] // _HEAD_SIZE, "dropout": 0.0}
