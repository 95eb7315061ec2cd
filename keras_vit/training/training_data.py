"""The data of a training: a data set, and which of its examples are for what."""

import dataclasses

from absl import logging

from keras_vit.data import integrity, pipeline
from keras_vit.data.catalog import unsplit
from keras_vit.data.catalog.unlabelled import resolve_images
from keras_vit.data.findings import findings
from keras_vit.data.sources import user
from keras_vit.data.splits import TEST, TRAINVAL, VALIDATION
from keras_vit.data.tasks import CLASSIFICATION
from keras_vit.progress import image_progress
from keras_vit.training import run_folder

# Of a folder without a split, as long as `max_bad_fraction` says nothing else.
MAX_UNSPLIT_BAD = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A data set, and which of its examples are for what.

    Args:
        info: `DatasetInfo`.
        train: The split to train on.
        validation: The split of the reports, or None.
        test: The split of the final evaluation, or None.
        shots: Images of each class to train on; None takes all.
        num_skipped: Bad examples that were left out; None where none may be.
        findings: What is odd about the pictures, sentences; of a split that was made for them.
    """

    info: pipeline.DatasetInfo
    train: str
    validation: str | None
    test: str | None
    shots: int | None
    num_skipped: int | None
    findings: tuple[str, ...] = ()

    def num_examples(self):
        """The number of examples to train on."""
        if self.shots is not None:
            return self.shots * self.info.num_classes
        return self.info.num_examples(self.train)


def resolve_data(dataset, options, workdir=None, needs_labels=True, task=None, resolve=None):
    """Finds a data set and its splits.

    Args:
        dataset: As in `pretrain`.
        options: `RunOptions`.
        workdir: Folder of the run, for the list of bad examples where they may be left out; None
            writes none.
        needs_labels: Whether the images must have classes.
        task: What their labels must be, one of `keras_vit.data.tasks.TASKS`; None takes any.
        resolve: The objective's function that finds its data, or None.

    Returns:
        `TrainingData`.

    Raises:
        ValueError, BadDataError: As `pretrain`.
    """
    where = {
        "data_dir": options.data_dir,
        "download": options.download,
        "max_pixels": options.max_pixels,
    }
    if resolve is not None:
        dataset = resolve(dataset, **where)
    elif not needs_labels:
        dataset = resolve_images(dataset, **where)
    if needs_labels and task not in (None, CLASSIFICATION):
        dataset = pipeline.resolve(dataset, **where, task=task)
    entries, max_bad_fraction = None, options.max_bad_fraction
    info = pipeline.resolve(dataset, **where) if max_bad_fraction is None else None
    if info is not None and _is_ours(info):
        # Nobody has looked at these yet: a few bad files are told, and do not stop the work.
        dataset, max_bad_fraction = info, MAX_UNSPLIT_BAD
    if max_bad_fraction is not None:
        report = None
        if workdir is not None:
            workdir.mkdir(parents=True, exist_ok=True)
            run_folder.mark(workdir)
            report = workdir / run_folder.SKIPPED
        info, entries = integrity.resolve_without_bad(
            dataset,
            splits=lambda info: [split for split in _splits(info, options.train_split) if split],
            max_bad_fraction=max_bad_fraction,
            report=report,
            progress=image_progress if options.progress else None,
            **where,
        )
    user.check_task(info, task)
    train_split, validation, test = _splits(info, options.train_split)
    told = ()
    if _is_ours(info):
        told = findings(info)
        for entry in entries:
            logging.warning("left out: %s", entry)
        for sentence in told:
            logging.warning("%s", sentence)
        if workdir is not None:
            path = unsplit.write_split(workdir, info)
            sizes = ", ".join(f"{n} for {split}" for split, n in info.split_sizes.items())
            logging.info("%s has no split: one is made by content, %s; %s", info.name, sizes, path)
    return TrainingData(
        info=info,
        train=train_split,
        validation=validation,
        test=test,
        shots=options.shots,
        num_skipped=None if entries is None else len(entries),
        findings=tuple(told),
    )


def _is_ours(info):
    """Whether the split was made by us, of a folder that has none."""
    return getattr(info.source, "rule", "") == unsplit.BY_CONTENT


def _splits(info, train_split):
    """The names of the splits for training, reports and the final evaluation, or None."""
    has_validation = VALIDATION in info.split_sizes and train_split not in (VALIDATION, TRAINVAL)
    test = TEST if TEST in info.split_sizes and train_split != TEST else None
    return train_split, VALIDATION if has_validation else None, test
