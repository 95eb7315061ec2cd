"""A model whose training step splits a batch into micro-batches, on TensorFlow and JAX.

Everything else is Keras's own `fit`.  The step differs from Keras's in three things:

- With `compile(..., accumulation_steps=k)` the gradient of a batch is the mean of those of its k
  parts, of which only one is in memory at a time, as in the official code (vit_jax
  `utils.accumulate_gradient`).  A step stays one update: schedules, callbacks and logs do not
  notice.  (`gradient_accumulation_steps` of Keras's optimizers counts each part as a step.)
- A loss that is not finite makes a gradient that is not finite, so that an optimizer that refuses
  such gradients (those of `keras_vit.training.optimizers`) refuses the step; the mean of the losses
  in the logs leaves it out.
- Where the optimizer measures the norm of the gradient (those of `keras_vit.training.optimizers`),
  it is in the logs as `gradient_norm`.
"""

import keras

from keras_vit.trainer.finite import FiniteMean, with_gradient_to_match


def _backend_step():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_vit.trainer import tensorflow_step

        return tensorflow_step
    if backend == "jax":
        from keras_vit.trainer import jax_step

        return jax_step
    return None


class TrainableModel(keras.Model):
    """`keras.Model` with `accumulation_steps`."""

    accumulation_steps = 1

    def compile(self, *args, accumulation_steps=1, **kwargs):
        """`keras.Model.compile` with one more argument.

        Args:
            *args: of `keras.Model.compile`.
            accumulation_steps: number k of micro-batches that a batch is computed in; the batch
                size must be a multiple of it.
            **kwargs: of `keras.Model.compile`.

        Raises:
            ValueError: for a number that is not a positive integer, or more than 1 on a backend
                other than TensorFlow and JAX.
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
        super().compile(*args, **kwargs)
        self._loss_tracker = FiniteMean(name="loss")
        self.accumulation_steps = accumulation_steps

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

    def train_step(self, *args):
        """One update; called by `fit` with what its backend hands over."""
        step = _backend_step()
        if step is None:
            return super().train_step(*args)
        if self.accumulation_steps == 1:
            return step.with_gradient_norm(self, super().train_step(*args))
        return step.with_gradient_norm(self, step.accumulated_step(self, *args))
