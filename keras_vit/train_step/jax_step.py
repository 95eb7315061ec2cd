"""What `fit` and `predict_on_batch` run on the JAX backend.

A training step is a pure function of (state, data).
"""

import functools

import jax
import keras
import numpy as np

from keras_vit.train_step import guard, microbatches


def train_step(model, state, data):
    """One update: gradient -> guard -> update.

    Args:
        model: A compiled `TrainableModel`.
        state: Trainable, other, optimizer and metrics variables, as `fit` hands them over.
        data: A batch.

    Returns:
        `(logs, state)`.
    """
    trainable, others, optimizer, metrics = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    gradients, loss, y_pred, others, metrics = _gradient(model, state, x, y, sample_weight)
    trainable, optimizer, logs = _update(model.optimizer, gradients, trainable, optimizer)
    metric_logs, metrics = model._update_metrics_variables(
        metrics, loss, x, y, y_pred, sample_weight
    )
    return {**metric_logs, **logs}, (trainable, others, optimizer, metrics)


def _gradient(model, state, x, y, sample_weight):
    """Gradient of the scaled loss, loss, outputs, and what changes in a forward pass."""
    trainable, others, optimizer, metrics = state
    num_parts = model.accumulation_steps
    gradient_function = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)

    def gradient_of_part(others, metrics, part):
        (_, (loss, y_pred, others, metrics)), gradients = gradient_function(
            trainable, others, metrics, *part, training=True, optimizer_variables=optimizer
        )
        return gradients, loss, y_pred, others, metrics

    if num_parts == 1:
        return gradient_of_part(others, metrics, (x, y, sample_weight))

    def add_part(carry, part):
        gradients, loss, others, metrics = carry
        part, factor = part
        part_gradients, part_loss, y_pred, others, metrics = gradient_of_part(others, metrics, part)
        gradients = jax.tree.map(
            lambda total, part: total + part * factor.astype(part.dtype), gradients, part_gradients
        )
        return (gradients, loss + part_loss * factor, others, metrics), y_pred

    batch_size = len(jax.tree.leaves(x)[0])
    carry = (jax.tree.map(jax.numpy.zeros_like, trainable), 0.0, others, metrics)
    start, outputs = 0, []
    for number, size in microbatches.groups(batch_size, num_parts):
        end = start + number * size
        parts = jax.tree.map(
            lambda array: microbatches.split(array[start:end], number, size),  # noqa: B023
            (x, y, sample_weight),
        )
        # A micro-batch counts with its size; 1 where all are of one size.
        factors = jax.numpy.full(number, size * num_parts / batch_size, "float32")
        carry, y_pred = jax.lax.scan(add_part, carry, (parts, factors))
        outputs.append(jax.tree.map(microbatches.join, y_pred))
        start = end
    gradients, loss, others, metrics = carry
    gradients = jax.tree.map(lambda gradient: gradient / num_parts, gradients)
    y_pred = jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), *outputs)
    return gradients, loss / num_parts, y_pred, others, metrics


def _update(optimizer, gradients, trainable, variables):
    """Applies the gradient if it is finite.

    Returns:
        `(trainable, variables, logs)`: new values, and what the guard logs.
    """
    gradients = guard.unscaled(optimizer, gradients)
    mapping = list(zip(optimizer.variables, variables, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        gradients, is_finite, logs = guard.check(optimizer, gradients)
    variables = [scope.get_current_value(variable) for variable in optimizer.variables]
    with guard.checked(optimizer):
        new_trainable, new_variables = optimizer.stateless_apply(variables, gradients, trainable)

    def choose(new, old):
        return jax.numpy.where(is_finite, new, old)

    trainable = [choose(*pair) for pair in zip(new_trainable, trainable, strict=True)]
    new_variables = [
        new if variable is optimizer.iterations else choose(new, old)
        for variable, new, old in zip(optimizer.variables, new_variables, variables, strict=True)
    ]
    return trainable, new_variables, logs


def spread(batch):
    """Arrays (B, ...) over the devices of the current distribution, each with its part.

    All processes must have the whole of them.  They stay as they are where there is no
    distribution, or where the devices do not divide B.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return batch
    mesh = distribution.device_mesh
    num_shards = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]

    def put(array):
        array = np.asarray(array)
        if len(array) % num_shards:
            return array
        layout = distribution.get_data_layout(array.shape).backend_layout
        return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])

    return jax.tree.map(put, batch)


def gathered(arrays):
    """Arrays of which this process can read every number; all processes must call it."""

    def gather(array):
        if array.is_fully_addressable:
            return array
        return _copy_everywhere(array.sharding.mesh)(array)

    return jax.tree.map(gather, arrays)


@functools.cache
def _copy_everywhere(mesh):
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(lambda array: array, out_shardings=everywhere)


def with_gathered_outputs(predict_function):
    """Keras's function for a batch, with outputs that each process can read."""

    def predict(state, iterator):
        outputs, state = predict_function(state, iterator)
        return gathered(outputs), state

    return predict
