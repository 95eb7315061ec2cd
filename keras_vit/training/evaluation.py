"""The evaluators of a run: which there are, and what they have measured at its end."""

import copy
import dataclasses

from keras_vit.data.splits import TEST, VALIDATION
from keras_vit.evaluators.base import Every, check_evaluators
from keras_vit.evaluators.classification import evaluate

# What else `metrics.json` has at its top.
RESERVED = (
    *("run", "dataset", "train_split", "shots", "source", "train", "test", "steps", "seconds"),
    *("num_train_examples", "num_skipped", "num_parameters", "images_per_second", "waiting_share"),
    *("data", "backend", "strategy", "num_replicas", "recipe", "val"),
)


def of_run(run, objective, between):
    """Returns the objective's evaluators and the user's, each with the data set of the run.

    Args:
        run: `keras_vit.training.run.Run`.
        objective: `Objective`.
        between: Called by evaluators that have such an attribute, before each batch.

    Returns:
        A list of `Evaluator` and `Every`.
    """
    info, split = run.data.info, run.data.validation
    evaluators = list(run.options.evaluators)
    names = [getattr(each, "evaluator", each).name for each in evaluators]
    if split is not None and hasattr(objective, "evaluators"):
        of_objective = objective.evaluators(info, split, run.recipe.batch_size)
        evaluators = [e for e in of_objective if e.name not in names] + evaluators
    check_evaluators(evaluators, RESERVED)
    return [_bound(evaluator, info, between) for evaluator in evaluators]


def names_of(run, objective):
    """The names of the evaluators of a run."""
    return [getattr(each, "evaluator", each).name for each in of_run(run, objective, between=None)]


def _bound(evaluator, info, between):
    if isinstance(evaluator, Every):
        bound = _bound(evaluator.evaluator, info, between)
        return dataclasses.replace(evaluator, evaluator=bound)
    given = {"dataset": info, "between": between}
    missing = {n: v for n, v in given.items() if getattr(evaluator, n, v) is None}
    if dataclasses.is_dataclass(evaluator):
        return dataclasses.replace(evaluator, **missing)
    evaluator = copy.copy(evaluator)
    for name, value in missing.items():
        setattr(evaluator, name, value)
    return evaluator


def last_and_test(run, objective, model, evaluators, rows):
    """Returns the last numbers of each evaluator, and those of the test split, by name.

    The last of the rows is of the weights that are written.
    """
    results = {}
    for evaluator in evaluators:
        prefix = f"{getattr(evaluator, 'evaluator', evaluator).name}/"
        measured = [row for row in rows if any(name.startswith(prefix) for name in row)]
        last = measured[-1] if measured else {}
        results[prefix[:-1]] = {
            name.removeprefix(prefix): value
            for name, value in last.items()
            if name.startswith(prefix)
        }
    info, split = run.data.info, run.data.validation
    if VALIDATION in results and split is not None:
        results[VALIDATION] |= {"count": info.num_examples(split)}
    if run.data.test is not None and hasattr(objective, "evaluators"):
        if hasattr(objective, "evaluate"):
            results[TEST] = objective.evaluate(model, info, run.data.test)
        else:
            results[TEST] = evaluate(model, info, run.data.test, run.recipe.batch_size)
    return results
