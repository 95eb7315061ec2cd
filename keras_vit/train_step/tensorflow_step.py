"""The training step on the TensorFlow backend: gradient -> guard -> update.

Legend: B examples of a batch, b of them on a replica, N replicas, k micro-batches.
"""

import keras
import tensorflow as tf

from keras_vit.train_step import guard, microbatches


def train_step(model, data):
    """One update, in `replicas.step_function` or Keras's own."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred, loss, gradients = _gradient(model, x, y, sample_weight)
    # `compute_loss` divides by the number of replicas.
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    model._loss_tracker.update_state(loss * num_replicas, sample_weight=_size(x))
    logs = _update(model.optimizer, gradients, model.trainable_weights)
    return {**model.compute_metrics(x, y, y_pred, sample_weight=sample_weight), **logs}


def _gradient(model, x, y, sample_weight):
    """Outputs, loss and gradient of the mean over a replica's examples; the loss is scaled."""
    weights, num_parts = model.trainable_weights, model.accumulation_steps
    share = _share_of_batch(x)

    def gradient_of_part(x, y, sample_weight):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            scaled_loss = model.optimizer.scale_loss(loss if share is None else loss * share)
        unconnected = tf.UnconnectedGradients.NONE
        if num_parts > 1:  # they are added up
            unconnected = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(scaled_loss, weights, unconnected_gradients=unconnected)
        return y_pred, loss, gradients

    if num_parts == 1:
        return gradient_of_part(x, y, sample_weight)
    batch = (x, y, sample_weight)
    return _mean_over_parts(gradient_of_part, batch, num_parts, model.output, weights)


def _update(optimizer, gradients, weights):
    """Applies the gradient if it is finite; returns what the guard logs."""
    context = tf.distribute.get_replica_context()
    gradients = guard.unscaled(optimizer, gradients)
    if context.num_replicas_in_sync > 1:
        there = [i for i, gradient in enumerate(gradients) if gradient is not None]
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[i] for i in there])
        for i, gradient in zip(there, summed, strict=True):
            gradients[i] = gradient
    gradients, is_finite, logs = guard.check(optimizer, gradients)

    def apply(gradients):
        optimizer.apply(gradients, weights)

    def refuse():
        optimizer.iterations.assign_add(1)

    def apply_or_refuse(strategy, is_finite, gradients):
        # Replicas meet while they update their variables, which they cannot inside of a branch of
        # their own: the branch is that of all.
        run = strategy.extended.call_for_each_replica
        is_finite = strategy.experimental_local_results(is_finite)[0]
        with guard.checked(optimizer):
            tf.cond(is_finite, lambda: run(apply, args=(gradients,)), lambda: run(refuse))

    is_tpu = isinstance(context.strategy, tf.distribute.TPUStrategy)
    if context.num_replicas_in_sync > 1 and not is_tpu:
        context.merge_call(apply_or_refuse, args=(is_finite, gradients))
    else:
        with guard.checked(optimizer):
            keras.ops.cond(is_finite, lambda: apply(gradients), refuse)
    return logs


def _mean_over_parts(gradient_of_part, batch, num_parts, outputs, weights):
    """Outputs of all micro-batches, and the means of their losses and gradients.

    A micro-batch counts with its size, so that the means are those of the whole batch.
    """
    batch_size = _size(batch)
    gradients = [tf.zeros(weight.shape, weight.dtype) for weight in weights]
    loss, start, predictions = tf.constant(0.0), 0, []
    for number, size in microbatches.groups(batch_size, num_parts):
        end = start + number * size
        parts = keras.tree.map_structure(
            lambda array: (
                None if array is None else microbatches.split(array[start:end], number, size)  # noqa: B023
            ),
            batch,
        )
        factor = None
        if not isinstance(size, int) or size * num_parts != batch_size:
            factor = tf.cast(size * num_parts, tf.float32) / tf.cast(batch_size, tf.float32)
        y_pred, loss, gradients = _sum_over_parts(
            gradient_of_part, parts, number, size, factor, outputs, loss, gradients
        )
        predictions.append(y_pred)
        start = end
    gradients = [gradient / num_parts for gradient in gradients]
    y_pred = keras.tree.map_structure(lambda *parts: tf.concat(parts, 0), *predictions)
    return y_pred, loss / num_parts, gradients


def _sum_over_parts(gradient_of_part, parts, number, size, factor, outputs, loss, gradients):
    """Adds the losses and gradients of micro-batches of one size.

    Returns:
        `(y_pred, loss, gradients)`.
    """

    def add_part(i, loss, gradients, outputs):
        part = keras.tree.map_structure(lambda array: None if array is None else array[i], parts)
        y_pred, part_loss, part_gradients = gradient_of_part(*part)
        if factor is not None:
            part_loss *= factor
            part_gradients = [g * tf.cast(factor, g.dtype) for g in part_gradients]
        gradients = [
            total + tf.cast(gradient, total.dtype)
            for total, gradient in zip(gradients, part_gradients, strict=True)
        ]
        written = [
            tf.tensor_scatter_nd_update(rows, [[i]], [part])
            for rows, part in zip(outputs, keras.tree.flatten(y_pred), strict=True)
        ]
        return i + 1, loss + tf.cast(part_loss, loss.dtype), gradients, written

    # Not a `TensorArray`, which cannot be stacked where the number is 0.
    rows = [
        tf.zeros((number, size, *output.shape[1:]), output.dtype)
        for output in keras.tree.flatten(outputs)
    ]
    _, loss, gradients, rows = tf.while_loop(
        lambda i, *_: i < number,
        add_part,
        (tf.constant(0), loss, gradients, rows),
        parallel_iterations=1,
        maximum_iterations=number,
    )
    y_pred = [microbatches.join(array) for array in rows]
    return keras.tree.pack_sequence_as(outputs, y_pred), loss, gradients


def _size(x):
    """Number of examples, an integer where the shape tells it."""
    first = next(part for part in keras.tree.flatten(x) if part is not None)
    return tf.shape(first)[0] if first.shape[0] is None else first.shape[0]


def _share_of_batch(x):
    """b N / B, what a replica's mean loss counts in that of the whole batch; None where it is 1.

    Where the last batch of a data set may be smaller, the number of examples is not known here.
    """
    context = tf.distribute.get_replica_context()
    size = _size(x)
    if context.num_replicas_in_sync == 1 or isinstance(size, int):
        return None
    size = tf.cast(size, tf.float32)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, size)
    return size * context.num_replicas_in_sync / total
