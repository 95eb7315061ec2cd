"""A model whose training step is right in micro-batches and on many devices.

Everything else is Keras's own `fit`.  A step is gradient -> guard -> update, with any Keras
optimizer, and differs from Keras's in these points:

- With `compile(..., accumulation_steps=k)` the gradient of a batch is the mean of those of its k
  parts, of which only one is in memory at a time, as in the official code (vit_jax
  `utils.accumulate_gradient`).  A step stays one update: schedules, callbacks and logs do not
  notice.  (`gradient_accumulation_steps` of Keras's optimizers counts each part as a step.)
  The last batch of an epoch may be smaller: each part counts with its size.
- A gradient or a loss that is not finite changes no weight (`keras_vit.train_step.guard`); the mean
  of the losses in the logs leaves it out.
- The norm of the whole gradient, before clipping, is in the logs as `gradient_norm`.
- Under a `tf.distribute` strategy of several replicas (`keras_vit.train_step.replicas`) a step is
  that of one device with the whole batch, and so are the metrics.
"""

import contextlib

import keras

from keras_vit.train_step.guard import FiniteMean, with_gradient_to_match


def _backend_step():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_vit.train_step import tensorflow_step

        return tensorflow_step
    if backend == "jax":
        from keras_vit.train_step import jax_step

        return jax_step
    return None


class TrainableModel(keras.Model):
    """`keras.Model` with `accumulation_steps`."""

    accumulation_steps = 1

    @staticmethod
    def check_policy(policy):
        """Raises ValueError for a dtype policy whose variables the current strategy cannot share.

        To be called before any variable is made.
        """
        if keras.backend.backend() == "tensorflow":
            from keras_vit.train_step import replicas

            replicas.check_policy(policy)

    def compile(self, optimizer="rmsprop", *args, accumulation_steps=1, **kwargs):
        """`keras.Model.compile` with one more argument.

        Args:
            optimizer: of `keras.Model.compile`.
            *args: of `keras.Model.compile`.
            accumulation_steps: Number k of micro-batches that a batch is computed in.
            **kwargs: of `keras.Model.compile`.

        Raises:
            ValueError: for a number that is not a positive integer, or more than 1 on a backend
                other than TensorFlow and JAX; for a model, an optimizer or a metric that was not
                made in the scope of the strategy; for a model in mixed float16 and an optimizer of
                this package without `dynamic_loss_scale`.
        """
        is_integer = isinstance(accumulation_steps, int) and not isinstance(
            accumulation_steps, bool
        )
        if not is_integer or accumulation_steps < 1:
            raise ValueError(
                f"`accumulation_steps` must be a positive integer. Received: {accumulation_steps!r}"
            )
        if accumulation_steps > 1 and _backend_step() is None:
            raise ValueError(
                "`accumulation_steps` needs the TensorFlow or the JAX backend. "
                f"Received: {accumulation_steps} on {keras.backend.backend()}"
            )
        scales_loss = getattr(optimizer, "dynamic_loss_scale", None)
        if scales_loss is not None and self.dtype_policy.name == "mixed_float16":
            if not scales_loss and kwargs.get("auto_scale_loss", True):
                raise ValueError(
                    "the optimizer of a model in mixed_float16 must scale the loss. Received: "
                    f"{optimizer.name!r} without; make it with `dynamic_loss_scale=True`"
                )
            kwargs["auto_scale_loss"] = False
        strategy = _strategy_of(self)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            super().compile(optimizer, *args, **kwargs)
            self._tracker.unlock()  # which Keras's `quantize` locks
            self._loss_tracker = FiniteMean(name="loss")
        self.accumulation_steps = accumulation_steps
        if strategy is not None:
            from keras_vit.train_step import replicas

            given = (kwargs.get("metrics"), kwargs.get("weighted_metrics"))
            replicas.check_compile(self, kwargs.get("jit_compile"), given)

    def compute_loss(self, *args, **kwargs):
        return with_gradient_to_match(super().compute_loss(*args, **kwargs))

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self.accumulation_steps > 1:
            config["accumulation_steps"] = self.accumulation_steps
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def check_trainable(self):
        """Raises ValueError for a model that cannot be trained as it is; `fit` asks first."""

    def train_step(self, *args):
        """One update; called by `fit` with what its backend hands over."""
        step = _backend_step()
        if step is None:
            return super().train_step(*args)
        return step.train_step(self, *args)

    def make_train_function(self, force=False):
        """Makes what `fit` and `train_on_batch` call for each execution."""
        self.check_trainable()
        strategy = _strategy_of(self)
        if strategy is None:
            return super().make_train_function(force)
        if self.train_function is None or force:
            from keras_vit.train_step import replicas

            self.train_function = replicas.step_function(self, strategy, self.train_step)
        return self.train_function

    def make_test_function(self, force=False):
        """Makes what `evaluate` and `test_on_batch` call for each execution."""
        strategy = _strategy_of(self)
        if strategy is None:
            return super().make_test_function(force)
        if self.test_function is None or force:
            from keras_vit.train_step import replicas

            self.test_function = replicas.step_function(self, strategy, self.test_step)
        return self.test_function

    def make_predict_function(self, force=False):
        """Makes what `predict` and `predict_on_batch` call for each execution."""
        strategy = _strategy_of(self)
        if strategy is None:
            if keras.backend.backend() != "jax":
                return super().make_predict_function(force)
            if self.predict_function is None or force:
                from keras_vit.train_step import jax_step

                super().make_predict_function(force)
                self.predict_function = jax_step.with_gathered_outputs(self.predict_function)
            return self.predict_function
        if self.predict_function is None or force:
            from keras_vit.train_step import replicas

            self.predict_function = replicas.predict_function(self, strategy)
        return self.predict_function

    def predict_on_batch(self, x):
        """As of Keras; the replicas of a strategy, or the devices on JAX, share the batch.

        Of several processes, all must be given the whole batch.
        """
        strategy = _strategy_of(self)
        if strategy is None:
            if keras.backend.backend() == "jax":
                from keras_vit.train_step import jax_step

                x = jax_step.spread(x)
            return super().predict_on_batch(x)
        from keras_vit.train_step import replicas

        self.make_predict_function()
        outputs = self.predict_function([replicas.spread(strategy, (x,))])
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = _strategy_of(self)
        if strategy is None or iterator is None:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
            return
        from keras_vit.train_step import replicas

        # Keras averages the replicas' parts of a batch for their shapes, which must be the same.
        with strategy.scope():
            self._symbolic_build(data_batch=replicas.batch_spec(iterator))


def _strategy_of(model):
    if keras.backend.backend() != "tensorflow":
        return None
    from keras_vit.train_step import replicas

    replicas.check_scope(model)
    return replicas.strategy_of(model)
