"""The training step on the TensorFlow backend.

Legend: B examples of a batch, b of them on a replica, N replicas.
"""

import keras
import tensorflow as tf

from keras_vit.trainer import replicas
from keras_vit.trainer.parts import join, split


def train_step(model, data, keras_step):
    """One update; Keras's own step where there is one device and one part of the batch."""
    if model.accumulation_steps > 1 or replicas.strategy_of(model) is not None:
        return with_measures(model, _step_in_parts(model, data))
    return with_measures(model, keras_step(data))


def with_measures(model, logs):
    """The logs with what the optimizer measures, if it does."""
    measures = getattr(model.optimizer, "measures", {})
    return {**logs, **{name: tf.identity(variable.value) for name, variable in measures.items()}}


def _step_in_parts(model, data):
    """Computes the mean gradient of k micro-batches on each replica and applies it once."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    num_parts = model.accumulation_steps
    weights = model.trainable_weights
    share = _share_of_batch(x)

    def loss_and_gradients(x, y, sample_weight):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            scaled_loss = model.optimizer.scale_loss(loss if share is None else loss * share)
        gradients = tape.gradient(
            scaled_loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return y_pred, loss, gradients

    if num_parts == 1:
        y_pred, loss, gradients = loss_and_gradients(x, y, sample_weight)
    else:
        y_pred, loss, gradients = _in_parts(
            loss_and_gradients, (x, y, sample_weight), num_parts, weights, model.outputs[0]
        )
    _track_loss(model, loss, x)
    model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _in_parts(loss_and_gradients, batch, num_parts, weights, output):
    """Outputs of all parts, and the means of their losses and gradients."""
    parts = keras.tree.map_structure(lambda array: split(array, num_parts), batch)

    def add_part(i, gradients, loss, outputs):
        part = keras.tree.map_structure(lambda array: None if array is None else array[i], parts)
        y_pred, part_loss, part_gradients = loss_and_gradients(*part)
        gradients = [
            total + tf.cast(gradient, total.dtype)
            for total, gradient in zip(gradients, part_gradients, strict=True)
        ]
        return i + 1, gradients, loss + part_loss, outputs.write(i, y_pred)

    _, gradients, loss, outputs = tf.while_loop(
        lambda i, *_: i < num_parts,
        add_part,
        (
            tf.constant(0),
            [tf.zeros(weight.shape, weight.dtype) for weight in weights],
            tf.constant(0.0),
            tf.TensorArray(output.dtype, num_parts, element_shape=output.shape),
        ),
        parallel_iterations=1,
        maximum_iterations=num_parts,
    )
    gradients = [gradient / num_parts for gradient in gradients]
    return join(outputs.stack()), loss / num_parts, gradients


def _share_of_batch(x):
    """b N / B, what a replica's mean loss counts in that of the whole batch; None where it is 1.

    Where the last batch of a data set may be smaller, the number of examples is not known here.
    """
    context = tf.distribute.get_replica_context()
    first = keras.tree.flatten(x)[0]
    if context.num_replicas_in_sync == 1 or first.shape[0] is not None:
        return None
    size = tf.cast(tf.shape(first)[0], tf.float32)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, size)
    return size * context.num_replicas_in_sync / total


def _track_loss(model, loss, x):
    # `compute_loss` divides by the number of replicas.
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    batch_size = tf.shape(keras.tree.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss * num_replicas, sample_weight=batch_size)
