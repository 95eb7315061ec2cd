"""A recipe over `model.fit`: compiles a model, trains it, and returns what was reported."""

import warnings

import keras

from keras_vit.data import pipeline
from keras_vit.training.callbacks import Progress, RequireFiniteLoss, StopAfter, Validation
from keras_vit.training.losses import LOSSES
from keras_vit.training.optimizers import make_optimizer, make_schedule


def fit(
    model,
    info,
    recipe,
    total_steps,
    *,
    train_split="train",
    validation_split=None,
    shots=None,
    title="training",
    progress=True,
    resume=None,
    num_replicas=1,
    data_shard=(0, 1),
    waiting=None,
):
    """Compiles a model by a recipe and trains it with `model.fit`; it is not compiled afterwards.

    Args:
        model: a model of this package; it is changed in place.
        info: a `DatasetInfo`.
        recipe: `Recipe`.
        total_steps: number of updates.
        train_split: the split to train on.
        validation_split: the split that is evaluated with each report, or None for none.
        shots: images of each class, or None for all.
        title: of the progress bar.
        progress: whether to show it.
        resume: an `ExactResume`, from whose state it goes on and which saves it.
        num_replicas: of the strategy in whose scope the model was made; the batch size must be a
            multiple of it.
        data_shard: `(index, number)`, which part of each batch is read here.
        waiting: a `WaitingShare` that measures how long the steps wait for data, or None.

    Returns:
        A list with one dict for each `recipe.report_steps` updates: `step`, `learning_rate`, `loss`
        and `accuracy` in training, `gradient_norm` of the last update before clipping, `val_loss`
        and `val_accuracy` where there is a validation split, and in mixed float16 `loss_scale`.

    Raises:
        TrainingError: if the loss or the gradient is not finite, three steps in a row.
    """
    start_step, start_epoch = (0, 0) if resume is None else (resume.step, resume.epoch)
    order = {"batch_size": recipe.batch_size, "seed": recipe.seed, "shots": shots}
    training = pipeline.training_dataset(
        info,
        train_split,
        model.preprocessing,
        augmentation=recipe.augmentation,
        start_step=start_step,
        num_replicas=num_replicas,
        shard=data_shard,
        **order,
    )
    if waiting is not None:
        training = waiting.watch(training)

    def describe_examples(step):
        indices = pipeline.example_indices(info, train_split, step=step, **order)
        return f"the examples {', '.join(map(str, indices))} of {info.name} {train_split}"

    model.set_remat(recipe.remat)
    model.compile(
        optimizer=make_optimizer(
            recipe,
            total_steps,
            model.trainable_variables,
            dynamic_loss_scale=model.dtype_policy.name == "mixed_float16",
        ),
        loss=LOSSES[recipe.loss](label_smoothing=recipe.label_smoothing),
        metrics=[accuracy_of(training)],
        accumulation_steps=recipe.accumulation_steps,
    )
    if resume is not None:
        resume.restore(model, training)
    callbacks = [
        RequireFiniteLoss(start_step=start_step, describe_examples=describe_examples),
        StopAfter(total_steps, start_step),
    ]
    if validation_split is not None:
        between = None if resume is None else resume.check_signals
        callbacks.append(Validation(info, validation_split, recipe.batch_size, between))
    bar = Progress(total_steps, title, start_step, waiting)
    callbacks += [bar] * progress + [resume] * (resume is not None)
    num_reports = -(-total_steps // recipe.report_steps)
    try:
        with warnings.catch_warnings():
            # Keras warns of its own default, `shuffle=True`.
            warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
            history = model.fit(
                training,
                epochs=num_reports,
                initial_epoch=start_epoch,
                steps_per_epoch=recipe.report_steps,
                callbacks=callbacks,
                verbose=0,
            ).history
    finally:
        bar.close()
    # What is trained is saved without the optimizer, like what `from_pretrained` returns.
    model.optimizer, model.compiled = None, False
    if resume is None:
        reports = [{name: history[name][i] for name in history} for i in range(num_reports)]
    else:
        reports = resume.history
    schedule = make_schedule(recipe, total_steps)
    rows = []
    for i, report in enumerate(reports):
        step = min((i + 1) * recipe.report_steps, total_steps)
        # The rate of the last update, whose step is counted from 0.
        row = {"step": step, "learning_rate": float(schedule(step - 1))}
        rows.append(row | {name: float(value) for name, value in report.items()})
    return rows


def accuracy_of(training):
    """The metric `accuracy` for a data set's labels: integers, or shares of the classes."""
    labels = training.element_spec[1]
    if labels.shape.rank == 2:
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
