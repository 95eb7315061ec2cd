"""What `fit` and `predict_on_batch` run on the JAX backend.

A training step is a pure function of (state, data).
"""

import functools

import jax
import keras
import numpy as np

from keras_vit.trainer.parts import join, split


def train_step(model, state, data, keras_step):
    """One update; Keras's own step where the batch has one part.

    Returns:
        `(logs, state)`.
    """
    if model.accumulation_steps == 1:
        return with_measures(model, keras_step(state, data))
    return with_measures(model, accumulated_step(model, state, data))


def accumulated_step(model, state, data):
    """Computes the mean gradient of k micro-batches and applies it once.

    Args:
        model: a compiled `TrainableModel`.
        state: trainable, other, optimizer and metrics variables, as `fit` hands them over.
        data: a batch.

    Returns:
        `(logs, state)`.
    """
    trainable, others, optimizer, metrics = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    num_parts = model.accumulation_steps
    parts = jax.tree.map(lambda array: split(array, num_parts), (x, y, sample_weight))
    gradient_function = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)

    def add_part(carry, part):
        gradients, loss, others, metrics = carry
        (_, (part_loss, y_pred, others, metrics)), part_gradients = gradient_function(
            trainable, others, metrics, *part, training=True, optimizer_variables=optimizer
        )
        gradients = jax.tree.map(jax.numpy.add, gradients, part_gradients)
        return (gradients, loss + part_loss, others, metrics), y_pred

    start = (jax.tree.map(jax.numpy.zeros_like, trainable), 0.0, others, metrics)
    (gradients, loss, others, metrics), outputs = jax.lax.scan(add_part, start, parts)
    gradients = jax.tree.map(lambda gradient: gradient / num_parts, gradients)
    trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
    logs, metrics = model._update_metrics_variables(
        metrics, loss / num_parts, x, y, jax.tree.map(join, outputs), sample_weight
    )
    return logs, (trainable, others, optimizer, metrics)


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


def with_measures(model, outcome):
    """`(logs, state)` with what the optimizer measures in the logs, if it does."""
    logs, state = outcome
    variables = model.optimizer.variables
    for name, measure in getattr(model.optimizer, "measures", {}).items():
        place = next(i for i, variable in enumerate(variables) if variable is measure)
        logs = {**logs, name: state[2][place]}
    return logs, state
