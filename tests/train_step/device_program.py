"""A test of its own process: JAX on four devices that the host is forced to have.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=4 \
        python device_program.py CASE ...

Trains the named cases on one device and under each strategy, and compares.
"""

import sys

import jax
import numpy as np

from keras_vit.distribution import fully_sharded
from keras_vit.distribution.strategy import place
from keras_vit.train_step import jax_step
from tests import tiny
from tests.train_step import replica_cases


def check_spreading():
    """Each device computes its part of a batch of `predict_on_batch`, of any size."""
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)).astype("float32")
    model = tiny.make_model()
    weights, expected = model.get_weights(), model.predict_on_batch(images)
    assert jax_step.spread(images) is images
    with place("data_parallel").scope():
        model = tiny.make_model()
        model.set_weights(weights)
        assert jax_step.spread(images).sharding.shard_shape(images.shape)[0] == 2
        for size in (8, 7):  # of which 7 are computed by all
            received = model.predict_on_batch(images[:size])
            np.testing.assert_allclose(received, expected[:size], rtol=1e-5, atol=1e-6)


def main(*names):
    assert jax.device_count() == 4, jax.devices()
    fully_sharded.MIN_SPLIT_VALUES = 64  # the models here are small
    for name in names:
        expected = replica_cases.run(name, held_out=16)
        for strategy, replicas in (("data_parallel", 4), ("fsdp", 4), ("model_parallel", 2)):
            placement = place(strategy)
            assert placement.num_replicas == replicas
            with placement.scope():
                received = replica_cases.run(name, held_out=16)
            print(name, strategy, flush=True)
            replica_cases.assert_same(received, expected, name)
    check_spreading()
    placement = place("model_parallel")
    with placement.scope():
        model = tiny.make_model()
    split = {v.path for v in model.weights if not v.value.sharding.is_fully_replicated}
    block = "encoderblock_0"
    projections = {
        f"{part}_{kind}" for part in ("query", "key", "value") for kind in ("kernel", "bias")
    }
    assert split == {
        *(f"{block}/attention/{name}" for name in {*projections, "out_kernel"}),
        *(f"{block}/mlp/{name}" for name in ("dense_1/kernel", "dense_1/bias", "dense_2/kernel")),
    }, split


if __name__ == "__main__":
    main(*sys.argv[1:])
