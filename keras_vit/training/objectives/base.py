"""The protocol of objectives: everything that decides what a model learns from an example."""

from typing import Protocol, runtime_checkable

import keras
import tensorflow as tf


@runtime_checkable
class Objective(Protocol):
    """What a training learns.

    A recipe names one (`objective="supervised"`), and any object of this shape is taken in its
    place.  An objective may have a method `evaluators(info, split, batch_size)` too: what is
    measured with each report where there is a validation split, a list of
    `keras_vit.evaluators.base.Evaluator`.  Then accuracy on the test split is measured at the end.
    It may have `prepare(info, split)` and `conclude(model, info, split, batch_size)`: the first is
    called with the split to train on, before `build`; the second once the training is over, with
    what `finish` has returned and the validation split or None, before the model is measured on
    the test split and written.  An attribute `task`, one of `keras_vit.data.tasks.TASKS`, says
    what the labels must be.  An attribute `tuned` is the model of which a recipe may freeze a part,
    where that is not what `build` returns.  With an attribute `uses_labels = False` it is given a
    model without a head, and the images need no classes.  An attribute `class_weights` says that
    its loss weighs the classes: images then have no weights by their class.

    Data that are no images with classes are found by a function `resolve(dataset, data_dir=,
    download=, max_pixels=)` and read by `training_dataset`, as
    `keras_vit.data.pipeline.training_dataset`; `evaluate(model, info, split)` then measures the
    test split.  `Segmentation` has all three.
    """

    def build(self, model, info):
        """Adds or replaces heads.

        Args:
            model: A model of this package with a head for the classes of the data set, or without.
            info: `keras_vit.data.pipeline.DatasetInfo`.

        Returns:
            The `keras.Model` that is trained, with the training step of this package
            (`keras_vit.train_step.TrainableModel`).
        """

    def targets(self, image, label, seed):
        """Makes the target of an example, inside of tf.data.

        Args:
            image: Float (h, w, C), as it goes into the model.
            label: As the data set has it.
            seed: int32 (2,), for stateless random operations; another one for each example and
                step, and the same in a run that is resumed.

        Returns:
            `(x, y)`: what the model and the loss are given.
        """

    def loss(self):
        """Returns the `keras.losses.Loss`."""

    def metrics(self):
        """Returns a list of `keras.metrics.Metric`, new ones in each call."""

    def finish(self, model):
        """Returns the model that is evaluated and written.

        Args:
            model: What `build` has returned; the result shares its weights.
        """


def with_targets(dataset, objective, *, seed, start_step, first_example):
    """Applies the targets of an objective to batches.

    Args:
        dataset: `tf.data.Dataset` of (images, labels) or (images, labels, weights).
        objective: `Objective`.
        seed: Integer of the recipe.
        start_step: Step of the first batch.
        first_example: Place of a batch's first example in the batch of all processes.

    Returns:
        A `tf.data.Dataset` of (x, y) or (x, y, weights).
    """
    if getattr(objective, "keeps_targets", False):
        return dataset
    key = tf.constant([seed, 2], tf.int32)  # 0 and 1 are those of examples and of mixing

    def apply(step, batch):
        images, labels, *weights = batch
        step_key = tf.random.fold_in(key, step)

        def of_example(element):
            place, image, label = element
            return objective.targets(image, label, tf.random.fold_in(step_key, place))

        image, label = images[0], labels[0]
        spec = keras.tree.map_structure(
            lambda part: tf.TensorSpec(part.shape, part.dtype),
            objective.targets(image, label, step_key),
        )
        places = first_example + tf.range(tf.shape(images)[0])
        x, y = tf.map_fn(of_example, (places, images, labels), fn_output_signature=spec)
        return x, y, *weights

    return dataset.enumerate(start_step).map(apply, num_parallel_calls=2).prefetch(1)
