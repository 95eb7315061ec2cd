"""The training loop, top to bottom: data, model, optimizer, step, evaluators, state, files."""

import contextlib
import pathlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_vit.data import pipeline
from keras_vit.data.input_wait import WaitingShare
from keras_vit.layers.trainable import get_trainable, set_trainable
from keras_vit.train_step import TrainableModel
from keras_vit.training import best, evaluation, outputs, run_folder, speed
from keras_vit.training.callbacks import Evaluate, Progress, RequireFiniteLoss, StopAfter
from keras_vit.training.class_weights import class_weights, weighted
from keras_vit.training.objectives.base import with_targets
from keras_vit.training.objectives.registry import objective_of
from keras_vit.training.optimizers import make_optimizer, rate_at
from keras_vit.training.recipe_objects import copied
from keras_vit.training.resume.exact_resume import ExactResume, remembers
from keras_vit.training.tensorboard import FOLDER, TensorBoard
from keras_vit.training.tuning import merge_lora, rate_factors, set_tune_of
from keras_vit.zoo import adapters


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a training run.

    Args:
        workdir: Its folder.
        metrics: What `metrics.json` holds.
        files: Path of each file, by name.
        model: The trained model, not compiled.
    """

    workdir: pathlib.Path
    metrics: Mapping[str, Any]
    files: Mapping[str, pathlib.Path]
    model: keras.Model = field(repr=False)


def train(run):
    """Trains a model and writes the folder of the run; one that was stopped is resumed.

    Args:
        run: `keras_vit.training.run.Run`.

    Returns:
        A `RunResult`.

    Raises:
        FileExistsError, BlockingIOError, TrainingError, OSError: As `keras_vit.pretrain`.
    """
    recipe, options, placement = run.recipe, run.options, run.placement
    new_run = run_folder.new_shared_run(placement, run.workdir, options.overwrite)
    with placement.scope(), new_run as folder:
        keras.utils.set_random_seed(recipe.seed)
        objective = objective_of(recipe)
        # Model: a head for the objective on a model from random weights or a checkpoint.
        base = run.make_model()
        base.preprocessing = outputs.preprocessing(recipe, base.preprocessing)
        if recipe.remat:  # axial models do it by themselves
            base.set_remat()
        if hasattr(objective, "prepare"):
            objective.prepare(run.data.info, run.data.train)
        model = _checked(objective.build(base, run.data.info))
        # State: where the run begins.
        keeper = best.of_run(recipe, evaluation.names_of(run, objective))
        state = _state(run, base, keeper)
        # Data: a function of (seed, step), so that they go on from there.
        waiting = WaitingShare() if options.measure_input_wait else None
        data = _data(run, objective, base.preprocessing, state.step, waiting)
        # What is trained, and optimizer and step: gradient -> guard -> update, in
        # `keras_vit.train_step`.
        was_trained = get_trainable(model)
        compile_model(model, recipe, objective, run.total_steps)
        state.restore(model, data)
        # Evaluators: with each report, on the averaged weights.
        finished = objective.finish(model)
        evaluators = evaluation.of_run(run, objective, between=state.check_signals)
        evaluate = Evaluate(evaluators, recipe.report_steps, run.total_steps, finished)
        # Loop.
        rows = _fit(run, model, data, [evaluate, *keeper], state, waiting)
        for each in keeper:
            each.restore(model)
        if hasattr(objective, "conclude"):  # thresholds, for example
            info, split = run.data.info, run.data.validation
            objective.conclude(finished, info, split, recipe.batch_size)
        # Files: an ordinary model, with what LoRA has learned in its kernels.
        adapter = adapters.adapter_of(finished)
        for trained in (model, finished):
            merge_lora(trained)
        set_trainable(model, was_trained)
        written = keeper[0].rows(rows) if keeper else rows  # up to that of the weights written
        results = evaluation.last_and_test(run, objective, finished, evaluators, written)
        metrics = outputs.metrics(run, objective, finished, written, results, state, waiting)
        if placement.workers.is_chief:
            outputs.write(folder, finished, metrics, rows, recipe, adapter)
    if options.report and placement.workers.is_chief:
        outputs.write_report(run, finished)
    files = outputs.paths(run.workdir)
    return RunResult(workdir=run.workdir, metrics=metrics, files=files, model=finished)


def compile_model(model, recipe, objective, total_steps):
    """Freezes what a recipe does not train, and compiles: what a `fit` of one's own needs of it.

    Args:
        model: A model of this package.
        recipe: `Recipe`.
        objective: `Objective`.
        total_steps: Number of updates of the training.
    """
    tuned = getattr(objective, "tuned", model)
    set_tune_of(tuned, recipe)
    variables = model.trainable_variables
    factors = rate_factors(tuned, recipe.layer_decay, recipe.head_rate_factor)
    scales_loss = model.dtype_policy.name == "mixed_float16"
    metrics = objective.metrics()
    if recipe.metrics is not None:
        metrics = [copied(metric) for metric in recipe.metrics]
    optimizer = make_optimizer(recipe, total_steps, variables, scales_loss, factors)
    model.compile(
        optimizer=optimizer,
        loss=objective.loss() if isinstance(recipe.loss, str) else recipe.loss,
        metrics=metrics,
        accumulation_steps=recipe.accumulation_steps,
    )


def _fit(run, model, data, evaluate, state, waiting):
    """Runs `model.fit`, and returns a dict for each report.

    A row has `step`, `learning_rate`, `loss` and the metrics in training, `gradient_norm` of the
    last update before clipping, the evaluators' `name/key`, and in mixed float16 `loss_scale`.
    """
    recipe, total_steps = run.recipe, run.total_steps
    num_epochs = -(-total_steps // recipe.report_steps)
    if any(getattr(callback, "is_over", False) for callback in evaluate):
        num_epochs = state.epoch  # it was stopped early, and then killed
    bar = Progress(total_steps, run.kind, state.step, waiting)
    callbacks = [
        RequireFiniteLoss(start_step=state.step, describe_examples=run.describe_examples),
        StopAfter(total_steps, state.step),
        *_speed(run, model, waiting),
        *evaluate,
        *_tensorboard(run, state),
        *run.options.callbacks,
        *[bar] * run.options.progress,
        state,
    ]
    with warnings.catch_warnings(), contextlib.closing(bar):
        # Keras warns of its own default, `shuffle=True`.
        warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
        model.fit(
            data,
            epochs=num_epochs,
            initial_epoch=state.epoch,
            steps_per_epoch=recipe.report_steps,
            callbacks=callbacks,
            verbose=0,
        )
    outputs.check_finite(model)
    rows = []
    for i, report in enumerate(state.history):
        step = min((i + 1) * recipe.report_steps, total_steps)
        # The rate of the last update, whose step is counted from 0.
        rows.append({"step": step, "learning_rate": rate_at(model.optimizer, step - 1), **report})
    # The model is saved without the optimizer, like what `from_pretrained` returns.
    model.optimizer, model.compiled = None, False
    return rows


def _speed(run, model, waiting):
    """The callback that measures the speed, in a list, empty for none."""
    if waiting is None:
        return []
    peak = speed.device_peak(model.compute_dtype)
    return [speed.Speed(run.recipe.batch_size, waiting, speed.training_operations(model), peak)]


def _tensorboard(run, state):
    """The callback that writes events, in a list, empty for none."""
    if not run.options.tensorboard or not run.placement.workers.is_chief:
        return []
    folder, steps = run.workdir / FOLDER, run.recipe.report_steps
    return [TensorBoard(folder, steps, run.total_steps, begins=state.step == 0)]


def _data(run, objective, preprocessing, start_step, waiting):
    """Batches without end, from a step on."""
    recipe, placement = run.recipe, run.placement
    problem = run.data.info.source.resumption_problem(run.data.train)
    if problem and start_step:
        raise ValueError(
            f"a run on these data cannot be resumed exactly: {problem}. Received: the state of "
            f"step {start_step}; pass `overwrite=True` to begin anew"
        )
    read = getattr(objective, "training_dataset", pipeline.training_dataset)
    data = read(
        run.data.info,
        run.data.train,
        preprocessing,
        augmentation=recipe.augmentation,
        start_step=start_step,
        num_replicas=placement.num_replicas,
        shard=placement.data_shard,
        **run.order(),
    )
    if recipe.class_weights is not None and not hasattr(objective, "class_weights"):
        weights = class_weights(recipe.class_weights, run.data.info, run.data.train)
        data = weighted(data, weights)
    index, number = placement.data_shard
    first_example = index * (recipe.batch_size // number)
    data = with_targets(
        data, objective, seed=recipe.seed, start_step=start_step, first_example=first_example
    )
    return data if waiting is None else waiting.watch(data)


def _state(run, base, keeper):
    """The callback that saves everything, and knows where a run that was stopped goes on."""
    return ExactResume(
        run.workdir / run_folder.STATE,
        save_steps=run.options.checkpoint_steps,
        total_steps=run.total_steps,
        config=run.config(base),
        overwrite=run.options.overwrite,
        callbacks=[each for each in (*keeper, *run.options.callbacks) if remembers(each)],
        workers=run.placement.workers,
    )


def _checked(model):
    if not isinstance(model, TrainableModel):
        raise TypeError(
            "an objective must build a model with the training step of this package, "
            f"`keras_vit.train_step.TrainableModel`. Received: {type(model).__name__}"
        )
    return model
