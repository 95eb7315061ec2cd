"""A test of its own process: JAX on four devices that the host is forced to have.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=4 \
        python device_program.py CASE ...

Trains the named cases on one device and under each strategy, and compares.
"""

import sys

import jax

from keras_vit.training.strategy import place
from tests import tiny
from tests.trainer import replica_cases


def main(*names):
    assert jax.device_count() == 4, jax.devices()
    for name in names:
        expected = replica_cases.run(name, held_out=16)
        for strategy, replicas in (("data_parallel", 4), ("model_parallel", 2)):
            placement = place(strategy)
            assert placement.num_replicas == replicas
            with placement.scope():
                received = replica_cases.run(name, held_out=16)
            print(name, strategy, flush=True)
            replica_cases.assert_same(received, expected, name)
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
