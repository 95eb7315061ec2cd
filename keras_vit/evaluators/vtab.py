"""VTAB-1k (arXiv:1910.04867): 19 tasks in three groups, and their mean, which needs all of them.

`keras_vit.reproduce("vtab")` fine-tunes on each task as the paper does; the evaluator here measures
frozen features on all of them.
"""

# As Table 9 of arXiv:2010.11929v2 groups them.
NATURAL = (
    "caltech101",
    "cifar100",
    "dtd",
    "oxford_flowers102",
    "oxford_iiit_pet",
    "sun397",
    "svhn",
)
SPECIALIZED = ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy")
STRUCTURED = (
    *("clevr_count", "clevr_distance", "dmlab", "dsprites_location", "dsprites_orientation"),
    *("kitti_distance", "smallnorb_azimuth", "smallnorb_elevation"),
)
GROUPS = {"natural": NATURAL, "specialized": SPECIALIZED, "structured": STRUCTURED}
TASKS = NATURAL + SPECIALIZED + STRUCTURED


def vtab_scores(accuracies):
    """The mean of the 19 tasks and of each group.

    Args:
        accuracies: task, such as "dtd" -> accuracy.

    Returns:
        A dict of "mean", "natural", "specialized" and "structured".

    Raises:
        ValueError: unless there is one accuracy for each task, and no other.
    """
    missing = [task for task in TASKS if task not in accuracies]
    unknown = [task for task in accuracies if task not in TASKS]
    if missing or unknown:
        raise ValueError(
            f"VTAB's mean is that of its {len(TASKS)} tasks. Received: "
            + (f"nothing for {', '.join(missing)}" if missing else f"{', '.join(unknown)} beside")
        )
    groups = {
        group: sum(accuracies[task] for task in tasks) / len(tasks)
        for group, tasks in GROUPS.items()
    }
    return {"mean": sum(accuracies[task] for task in TASKS) / len(TASKS), **groups}


class VTAB:
    """An evaluator's number on each of the 19 tasks, and the means.

    Args:
        make_evaluator: A function from the name of a data set, "vtab/dtd" for example, to an
            evaluator, such as `lambda dataset: LinearProbe(dataset, train_split="trainval")`.
        key: The evaluator's number that is the accuracy.
        name: Under which the numbers are logged.
    """

    def __init__(self, make_evaluator, *, key="accuracy", name="vtab"):
        self.evaluators = {task: make_evaluator(f"vtab/{task}") for task in TASKS}
        self.key = key
        self.name = name

    def run(self, model):
        """Evaluates a model on every task.

        Returns:
            A dict of the accuracy of each task, "mean" and that of each group.

        Raises:
            ValueError: as the tasks' evaluators, for a data set that is not there for example.
        """
        accuracies = {
            task: evaluator.run(model)[self.key] for task, evaluator in self.evaluators.items()
        }
        return {**accuracies, **vtab_scores(accuracies)}
