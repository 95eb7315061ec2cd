"""One of several JAX processes that train together, named by Keras's environment variables.

    KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=127.0.0.1:1234 \
        KERAS_DISTRIBUTION_NUM_PROCESSES=2 KERAS_DISTRIBUTION_PROCESS_ID=0 \
        python process_program.py FOLDER

Writes FOLDER/<process>.npz with the logs and the trained weights; alone without the variables, when
it also writes FOLDER/model.keras.  With a second argument, a model file, it loads that before.
"""

import os
import pathlib
import sys

import keras

if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
    keras.distribution.initialize()

import jax  # noqa: E402  (after the processes have found each other)
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_vit  # noqa: E402
from keras_vit.training.losses import SoftmaxCrossentropy  # noqa: E402
from tests import tiny  # noqa: E402
from tests.train_step import replica_cases  # noqa: E402


def main(folder, stored=None):
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    if stored is not None:
        keras_vit.from_pretrained(stored)
    examples = tf.data.Dataset.from_tensor_slices(replica_cases.examples(80))
    batches = examples.batch(8, drop_remainder=True)
    model = tiny.make_model(dropout=0.2, stochastic_depth=0.2)
    model.compile(
        replica_cases.decayed(global_clipnorm=0.5, use_ema=True, ema_momentum=0.9),
        SoftmaxCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        accumulation_steps=2,
        steps_per_execution=2,
    )
    logs = model.fit(batches, verbose=0, shuffle=False).history
    logs |= {
        f"test_{k}": v for k, v in model.evaluate(batches, verbose=0, return_dict=True).items()
    }
    # Of the whole batch, in each process; `predict` reads its share.
    images, _ = replica_cases.examples(80)
    logs["predicted"] = model.predict_on_batch(images[:8])
    logs["predicted_all"] = model.predict(examples.map(lambda x, _: x).batch(8), verbose=0)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    arrays = {f"weights:{v.path}": np.asarray(v.value) for v in variables}
    arrays |= {f"logs:{name}": np.ravel(values) for name, values in logs.items()}
    np.savez(pathlib.Path(folder, f"{jax.process_index()}.npz"), **arrays)
    if stored is None:
        model.save(pathlib.Path(folder, "model.keras"))
    print(f"{jax.process_count()} processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
