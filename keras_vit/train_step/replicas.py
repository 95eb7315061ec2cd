"""What `fit`, `evaluate` and `predict` run under a `tf.distribute` strategy.

Keras's own functions read the metrics inside the replicas, fail in loops of several steps, and
under `MultiWorkerMirroredStrategy` at the first batch.  These give each batch to the replicas, run
the model's step on each of them, and read the metrics afterwards, over all replicas of all workers.

Legend: N replicas, R of them on each of W workers.
"""

import keras
import tensorflow as tf

from keras_vit.train_step import guard


def strategy_of(model):
    """The strategy that the model was made under, if it has more than one replica, else None."""
    strategy = model._distribute_strategy
    return strategy if strategy is not None and strategy.num_replicas_in_sync > 1 else None


def check_policy(policy):
    """Raises ValueError in the scope of several workers for variables that they cannot share."""
    current = tf.distribute.get_strategy()
    is_multiworker = isinstance(current, tf.distribute.MultiWorkerMirroredStrategy)
    if is_multiworker and current.num_replicas_in_sync > 1 and policy.variable_dtype == "bfloat16":
        raise ValueError(
            "TensorFlow cannot send bfloat16 between workers: the weights must have another dtype "
            f"there. Received: dtype={policy.name!r}; 'mixed_bfloat16' computes in bfloat16 with "
            "float32 weights"
        )


def check_scope(model):
    """Raises ValueError in the scope of a strategy that the model was not made in."""
    current = tf.distribute.get_strategy()
    # The default strategy is where no scope is.
    if tf.distribute.has_strategy() and current is not model._distribute_strategy:
        raise ValueError(
            "a model must be made, or loaded, in the scope of the strategy that it is used under. "
            f"Received: {model.name!r}, made outside of this {type(current).__name__}; put "
            "`create_model`, `from_pretrained` or `load_model` into its `with strategy.scope():`"
        )


def check_compile(model, jit_compile, metrics):
    """Raises ValueError for what does not go together with several replicas.

    Args:
        model: a model that has been compiled.
        jit_compile: as it was given.
        metrics: as they were given, in any structure.
    """
    strategy = strategy_of(model)
    if strategy is None:
        return
    if jit_compile is True and not isinstance(strategy, tf.distribute.TPUStrategy):
        raise ValueError(
            "XLA must not compile a step whose variables are on several devices. Received: "
            f"jit_compile=True for {strategy.num_replicas_in_sync} replicas; leave it at 'auto'"
        )
    for part in (model.optimizer, *keras.tree.flatten(metrics)):
        for variable in getattr(part, "variables", ()):
            # Each replica would add to the one variable.
            if not strategy.extended.variable_created_in_scope(variable.value):
                raise ValueError(
                    "optimizer and metrics must be made in the scope of the model's strategy. "
                    f"Received: {part.name!r}, made outside; put it into `with strategy.scope():`"
                )


def batch_spec(epoch_iterator):
    """The `tf.TensorSpec`s of one replica's batch; reads none."""
    spec = epoch_iterator._distributed_dataset.element_spec
    return keras.tree.map_structure(lambda part: getattr(part, "_value_specs", (part,))[0], spec)


def step_function(model, strategy, step):
    """A function of an iterator that runs `step` on `steps_per_execution` batches.

    Args:
        model: a compiled `TrainableModel` of the strategy.
        strategy: with N > 1 replicas.
        step: `model.train_step` or `model.test_step`.

    Returns:
        A function as `Model.make_train_function` makes it.
    """
    steps = model.steps_per_execution

    def on_replicas(batch):
        """What the guard logs, which is the same on all replicas."""
        logs = strategy.run(step, args=(_without_optionals(batch),))
        return {
            name: strategy.experimental_local_results(logs[name])[0]
            for name in guard.LOGS
            if name in logs
        }

    @tf.autograph.experimental.do_not_convert
    def next_batch(iterator):
        # Fetched here and not outside, so that sizes that may change are not taken for constants.
        logs = on_replicas(iterator.get_next())
        return {**model.get_metrics_result(), **logs}

    @tf.autograph.experimental.do_not_convert
    def several_batches(iterator):
        def run_and_fetch(i, batch, logs):
            logs = on_replicas(batch.get_value())
            # No more than the execution's own batches are taken from the iterator.
            following = tf.cond(
                i + 1 < steps, lambda: iterator.get_next_as_optional(), lambda: batch
            )
            return i + 1, following, logs

        logs = {} if step != model.train_step else guard.empty_logs(model.optimizer)
        count, _, logs = tf.while_loop(
            lambda i, batch, _: tf.logical_and(i < steps, batch.has_value()),
            run_and_fetch,
            (tf.constant(0), iterator.get_next_as_optional(), logs),
        )
        return count, {**model.get_metrics_result(), **logs}

    if not model.run_eagerly:
        next_batch = tf.function(next_batch, reduce_retracing=True)
        several_batches = tf.function(several_batches, reduce_retracing=True)

    def function(iterator):
        if not isinstance(iterator, tf.distribute.DistributedIterator):
            # `train_on_batch` and `test_on_batch` give a generator of one batch.
            return next_batch(one_batch_iterator(strategy, next(iterator)))
        if steps == 1:
            return next_batch(iterator)
        count, logs = several_batches(iterator)
        if count == 0:
            raise StopIteration
        return logs

    return function


def predict_function(model, strategy):
    """A function of a list of batches that gives their outputs in the examples' order."""

    @tf.autograph.experimental.do_not_convert
    def one_batch(batch):
        outputs = strategy.run(model.predict_step, args=(_without_optionals(batch),))
        return keras.tree.map_structure(lambda part: _in_order(strategy, part), outputs)

    if not model.run_eagerly:
        one_batch = tf.function(one_batch, reduce_retracing=True)

    def function(batches):
        outputs = [one_batch(batch) for batch in batches]
        return keras.tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)

    return function


def one_batch_iterator(strategy, batch):
    """A distributed iterator of one batch of arrays, of which each replica takes its part."""
    dataset = tf.data.Dataset.from_tensors(batch)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return iter(strategy.experimental_distribute_dataset(dataset.with_options(options)))


def spread(strategy, batch):
    """Gives each replica its part of a batch of arrays, in the order of a distributed data set.

    Much quicker than `one_batch_iterator`, but the sizes of the parts are constants of the graph.
    """
    num_replicas = strategy.num_replicas_in_sync
    per_worker = len(strategy.extended.worker_devices)

    def part_of(context):
        worker, local = divmod(context.replica_id_in_sync_group, per_worker)
        place = local * (num_replicas // per_worker) + worker

        def cut(array):
            size = -(-len(array) // num_replicas)
            return tf.convert_to_tensor(array[place * size : (place + 1) * size])

        return keras.tree.map_structure(cut, batch)

    return strategy.experimental_distribute_values_from_function(part_of)


def _in_order(strategy, values):
    """(B, ...) of the replicas' (b, ...).

    A distributed data set cuts a batch into N parts and gives the worker w the parts w, w + W, ...
    """
    local = strategy.experimental_local_results(values)
    per_worker = len(local)
    if per_worker == strategy.num_replicas_in_sync:
        return tf.concat(local, 0)
    rows = strategy.gather(values, axis=0)
    if per_worker == 1:
        return rows
    sizes = strategy.run(lambda value: tf.shape(value)[:1], args=(values,))
    parts = tf.split(rows, strategy.gather(sizes, axis=0), num=strategy.num_replicas_in_sync)
    return tf.concat([part for i in range(per_worker) for part in parts[i::per_worker]], 0)


def _without_optionals(batch):
    """Keras's data sets of arrays have empty optionals where there are no labels or weights."""
    return keras.tree.map_structure(
        lambda part: None if isinstance(part, tf.experimental.Optional) else part, batch
    )
