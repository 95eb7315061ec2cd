"""What an experiment would take: steps, exaFLOPs, hours, files to fetch, data sets, disk."""

import dataclasses

from keras_vit.checkpoints.catalog.lookup import get_checkpoint, list_checkpoints
from keras_vit.data.catalog import names
from keras_vit.models.cost import count_multiply_adds, count_parameters, pretraining_exaflops
from keras_vit.models.fields import pair, replace_fields
from keras_vit.models.presets import get_preset, list_models
from keras_vit.paper.cost import JFT_CLASSES, JFT_IMAGES
from keras_vit.paper.work import CHECKPOINT, EVALUATE, FEW_SHOT, FINETUNE
from keras_vit.training.recipe_table import get_recipe

TERAFLOPS = 100.0  # what an accelerator of today sustains in bfloat16
# `model.keras` and `checkpoint.npz`; while it is trained, states of weights and two moments too.
_FILES_OF_A_RUN, _STATES_OF_A_RUN = 2, 4
_BYTES = 4
_FORWARD, _TRAINING = 2, 6  # operations of a multiply-add


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What one run would take.

    Args:
        run: The `Run`.
        steps: Number of updates of all its trainings; None where there are none or it is not known.
        trainings: Number of trainings: of each rate of a sweep, and the final one.
        exaflops: 10^18 operations; None where a size is not known.
        disk_bytes: What it leaves behind; None where it is not known.
    """

    run: object
    steps: int | None = None
    trainings: int = 0
    exaflops: float | None = None
    disk_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What an experiment would take; `str()` of it is what `--plan` prints.

    Args:
        experiment: The `Experiment`.
        runs: A `PlannedRun` for each run.
        files: Catalogue name of each released file -> its size in bytes, or None.
        datasets: Name of each data set -> the number of its images, or None.
        teraflops: The rate that hours are given for, 10^12 operations a second.
    """

    experiment: object
    runs: tuple[PlannedRun, ...]
    files: dict
    datasets: dict
    teraflops: float

    @property
    def exaflops(self):
        """10^18 operations of all runs whose size is known."""
        return sum(planned.exaflops or 0.0 for planned in self.runs)

    def hours(self, exaflops):
        """Hours at the plan's rate."""
        return exaflops * 1e18 / (self.teraflops * 1e12) / 3600

    def __str__(self):
        lines = [self.experiment.title, ""]
        rows = [("run", "model", "data set", "recipe", "steps", "exaFLOPs", "hours")]
        for planned in self.runs:
            run, flops = planned.run, planned.exaflops
            rows.append(
                (
                    run.name,
                    run.model,
                    (run.dataset or "-") + _part(run),
                    run.recipe or "-",
                    f"{planned.steps:,}" if planned.steps else "-",
                    "-" if flops is None else f"{flops:.3g}",
                    "-" if flops is None else f"{self.hours(flops):.3g}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        lines += ["", "files to fetch:"]
        lines += [f"  {name}  {_megabytes(size)}" for name, size in self.files.items()] or [
            "  none"
        ]
        lines += ["data sets:"]
        for name, size in self.datasets.items():
            number = f"{size:,} images" if size else "size not known"
            lines.append(f"  {name}  {number}" + _availability(name))
        disk = sum(planned.disk_bytes or 0 for planned in self.runs)
        lines += [
            f"disk: {_megabytes(disk)} of runs, beside files and data sets",
            f"total: {len(self.runs)} runs, {self.exaflops:.4g} exaFLOPs, "
            f"{self.hours(self.exaflops):.4g} hours at {self.teraflops:g} teraFLOP/s",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.experiment.notes)])


def make_plan(experiment, *, teraflops=TERAFLOPS):
    """Computes what an experiment would take, without reading or fetching anything.

    Args:
        experiment: `Experiment`.
        teraflops: The rate that hours are given for, 10^12 operations a second.

    Returns:
        A `Plan`.

    Raises:
        ValueError: For a rate that is not positive.
    """
    if not teraflops > 0:
        raise ValueError(f"`teraflops` must be positive. Received: {teraflops}")
    files = {
        run.checkpoint: _file_size(run.checkpoint)
        for run in experiment.runs
        if run.kind == CHECKPOINT
    }
    found = dict.fromkeys(run.dataset for run in experiment.runs if run.dataset)
    return Plan(
        experiment=experiment,
        runs=tuple(_plan_run(run) for run in experiment.runs),
        files=files,
        datasets={name: _num_images(_sizes(name)) for name in found},
        teraflops=teraflops,
    )


def config_of(run, *, num_classes=1000, image_size=(224, 224)):
    """The configuration of a run's model; None for a model of the user's."""
    if run.model not in list_models():
        return None
    fields = {"num_classes": num_classes, "image_size": pair(image_size, "image_size")}
    return replace_fields(get_preset(run.model), {**fields, **run.architecture})


def _plan_run(run):
    if run.kind == CHECKPOINT:
        return PlannedRun(run=run)
    sizes = _sizes(run.dataset)
    if run.kind in (EVALUATE, FEW_SHOT):
        config = config_of(run)
        images = sizes.get("test", 0) + (run.kind == FEW_SHOT) * sizes.get("train", 0)
        if config is None or not images:
            return PlannedRun(run=run)
        flops = _FORWARD * count_multiply_adds(config) * images / 1e18
        return PlannedRun(run=run, exaflops=flops)
    recipe = get_recipe(run.recipe, num_examples=sizes.get(run.train_split), **run.changes)
    num_images = sizes.get(run.train_split.partition("[")[0])
    if num_images and "[" in run.train_split:
        num_images = num_images * int(run.train_split.split(":")[1].rstrip("%]")) // 100
    if recipe.steps is None and num_images is None:
        return PlannedRun(run=run, trainings=1)
    steps = recipe.steps or int(recipe.epochs * num_images) // recipe.batch_size
    trainings = 1
    if run.kind == FINETUNE and sweeps(run, recipe):
        trainings += len(recipe.learning_rates)
    classes = _num_classes(run.dataset)
    config = config_of(run, num_classes=classes, image_size=recipe.image_size or (224, 224))
    if config is None:
        return PlannedRun(run=run, steps=steps * trainings, trainings=trainings)
    seen = steps * recipe.batch_size * trainings
    flops = pretraining_exaflops(count_multiply_adds(config), seen, 1)
    copies = _FILES_OF_A_RUN * trainings + _STATES_OF_A_RUN
    return PlannedRun(
        run=run,
        steps=steps * trainings,
        trainings=trainings,
        exaflops=flops,
        disk_bytes=count_parameters(config) * _BYTES * copies,
    )


def sweeps(run, recipe):
    """Whether a fine-tuning chooses between several rates on a validation split."""
    return run.kind == FINETUNE and len(recipe.learning_rates or ()) > 1


def _sizes(dataset):
    if dataset == "JFT-300M":
        return {"train": int(JFT_IMAGES)}
    if dataset == "imagenet21k":
        # B.1: 14 million images, less the 51,200 of the validation.
        return {"train": 14_197_122 - 51_200, "validation": 51_200}
    row = names.find_dataset(dataset)
    return {} if row is None else dict(row.sizes)


def _num_images(sizes):
    """The number of images of all splits, none of them counted twice; None if it is not known."""
    return sum(size for split, size in sizes.items() if split != "trainval") or None


def _num_classes(dataset):
    if dataset == "JFT-300M":
        return JFT_CLASSES
    row = names.find_dataset(dataset)
    return (row.num_classes if row is not None else None) or 1000


def _file_size(name):
    if name not in list_checkpoints():
        return None
    row = get_checkpoint(name)
    return row.num_bytes or (row.approx_mib and int(row.approx_mib * 2**20))


def _megabytes(size):
    return "size not known" if size is None else f"{size / 1e6:,.0f} MB"


def _part(run):
    return "" if run.train_split in ("train", "trainval") else f" {run.train_split}"


def _availability(name):
    return ", not public" if name == "JFT-300M" else ""
