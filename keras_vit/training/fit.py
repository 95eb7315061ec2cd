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
    num_replicas=1,
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
        num_replicas: of the strategy in whose scope the model was made; the batch size must be a
            multiple of it.

    Returns:
        A list with one dict for each `recipe.report_steps` updates: `step`, `learning_rate`, `loss`
        and `accuracy` in training, `gradient_norm` of the last update before clipping, `val_loss`
        and `val_accuracy` where there is a validation split.

    Raises:
        TrainingError: if the loss is not finite.
    """
    training = pipeline.training_dataset(
        info,
        train_split,
        model.preprocessing,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augmentation=recipe.augmentation,
        shots=shots,
        num_replicas=num_replicas,
    )
    model.set_remat(recipe.remat)
    model.compile(
        optimizer=make_optimizer(recipe, total_steps, model.trainable_variables),
        loss=LOSSES[recipe.loss](label_smoothing=recipe.label_smoothing),
        metrics=[accuracy_of(training)],
        accumulation_steps=recipe.accumulation_steps,
    )
    callbacks = [RequireFiniteLoss(), StopAfter(total_steps)]
    if validation_split is not None:
        callbacks.append(Validation(info, validation_split, recipe.batch_size))
    bar = Progress(total_steps, title)
    num_reports = -(-total_steps // recipe.report_steps)
    try:
        with warnings.catch_warnings():
            # Keras warns of its own default, `shuffle=True`.
            warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
            history = model.fit(
                training,
                epochs=num_reports,
                steps_per_epoch=recipe.report_steps,
                callbacks=[*callbacks, bar] if progress else callbacks,
                verbose=0,
            ).history
    finally:
        bar.close()
    # What is trained is saved without the optimizer, like what `from_pretrained` returns.
    model.optimizer, model.compiled = None, False
    schedule = make_schedule(recipe, total_steps)
    rows = []
    for i in range(num_reports):
        step = min((i + 1) * recipe.report_steps, total_steps)
        # The rate of the last update, whose step is counted from 0.
        row = {"step": step, "learning_rate": float(schedule(step - 1))}
        rows.append(row | {name: float(values[i]) for name, values in history.items()})
    return rows


def accuracy_of(training):
    """The metric `accuracy` for a data set's labels: integers, or shares of the classes."""
    labels = training.element_spec[1]
    if labels.shape.rank == 2:
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
