"""The training step on the TensorFlow backend."""

import keras
import tensorflow as tf

from keras_vit.trainer.parts import join, split


def accumulated_step(model, data):
    """Computes the mean gradient of k micro-batches and applies it once.

    Args:
        model: a compiled `TrainableModel`.
        data: a batch as `fit` hands it over.

    Returns:
        The logs.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    num_parts = model.accumulation_steps
    parts = keras.tree.map_structure(lambda array: split(array, num_parts), (x, y, sample_weight))
    weights = model.trainable_weights
    output = model.outputs[0]

    def add_part(i, gradients, loss, outputs):
        part_x, part_y, part_weight = keras.tree.map_structure(
            lambda array: None if array is None else array[i], parts
        )
        with tf.GradientTape() as tape:
            y_pred = model(part_x, training=True)
            part_loss = model.compute_loss(
                x=part_x, y=part_y, y_pred=y_pred, sample_weight=part_weight, training=True
            )
            scaled_loss = model.optimizer.scale_loss(part_loss)
        part_gradients = tape.gradient(
            scaled_loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
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
    loss = loss / num_parts
    y_pred = join(outputs.stack())
    # `compute_loss` divides by the number of replicas.
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    batch_size = tf.shape(keras.tree.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss * num_replicas, sample_weight=batch_size)
    gradients = [gradient / num_parts for gradient in gradients]
    model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def with_gradient_norm(model, logs):
    """The logs with the optimizer's measure, if it has one."""
    norm = getattr(model.optimizer, "gradient_norm", None)
    return logs if norm is None else {**logs, "gradient_norm": tf.identity(norm.value)}
