"""Compiles the data-parallel training step for TPUs that are not there, and prints what it takes.

    pip install libtpu
    python tools/tpu_compile.py ViT-B/16 --topology v3:2x2 --batch 128

The compiler is that of the PyPI package libtpu; it needs no TPU, minutes for a large model, and
runs once at a time on a machine.  The step is that of the JAX backend in mixed bfloat16, with the
official SGD, over all cores of the topology.  `--batch` is the number of images on one core.
"""

import os
import time

os.environ.update(
    KERAS_BACKEND="jax",
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
)
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")

from absl import app, flags  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("topology", "v3:2x2", "Of the TPU, such as v3:2x2 or v5e:2x2.")
flags.DEFINE_integer("batch", 128, "Images on one core.", lower_bound=1)
flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", lower_bound=16)
flags.DEFINE_integer("accumulation_steps", 1, "Micro-batches.", lower_bound=1)
flags.DEFINE_boolean("remat", False, "Compute the blocks again for their gradients.")


def compile_step(name, topology, batch, image_size, accumulation_steps=1, remat=False):
    """The compiled training step of one model.

    Args:
        name: of `keras_vit.list_models()`.
        topology: of the TPU.
        batch: images on one core.
        image_size: side of the images in pixels.
        accumulation_steps: micro-batches.
        remat: whether the blocks are computed again.

    Returns:
        `(compiled, number of cores)`.
    """
    import jax
    import numpy as np
    from jax.experimental import topologies

    import keras_vit
    from keras_vit.training.losses import SoftmaxCrossentropy
    from keras_vit.training.optimizers import SGD

    cores = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = jax.sharding.Mesh(np.array(cores), ("batch",))
    model = keras_vit.create_model(name, image_size=image_size, dtype="mixed_bfloat16")
    if remat:
        model.set_remat()
    optimizer = SGD(0.03, global_clipnorm=1.0, momentum_dtype="bfloat16")
    model.compile(optimizer, SoftmaxCrossentropy(), accumulation_steps=accumulation_steps)
    optimizer.build(model.trainable_variables)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def of(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([of(v.shape, v.dtype, everywhere) for v in group] for group in groups)
    size = batch * len(cores)
    images = of((size, image_size, image_size, 3), "float32", divided)
    labels = of((size,), "int32", divided)
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(state, (images, labels)).compile(), len(cores)


def main(argv):
    if len(argv) != 2:
        raise app.UsageError("name one model")
    start = time.perf_counter()
    compiled, cores = compile_step(
        argv[1],
        FLAGS.topology,
        FLAGS.batch,
        FLAGS.image_size,
        FLAGS.accumulation_steps,
        FLAGS.remat,
    )
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    mib = 2**20
    print(f"{argv[1]}, {FLAGS.image_size} px, {FLAGS.batch} images a core, {FLAGS.topology}")
    print(f"cores           {cores}")
    print(f"arguments       {memory.argument_size_in_bytes / mib:.0f} MiB a core")
    print(f"temporaries     {memory.temp_size_in_bytes / mib:.0f} MiB a core")
    print(f"work            {cost['flops'] / 1e12:.3f} TFLOP a core and step")
    print(f"all-reduces     {compiled.as_text().count('all-reduce(')}")
    print(f"compiled in     {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    app.run(main)
