"""Compiles the training step for TPUs that are not there, and prints what it takes.

    pip install libtpu
    python tools/tpu_compile.py ViT-B/16 --topology v3:2x2 --batch 64
    python tools/tpu_compile.py ViT-B/16 --topology v5e:2x2 --batch 1024 --largest
    python tools/tpu_compile.py ViT-B/16 --backend tensorflow --batch 64

The compiler is that of the PyPI package libtpu; it needs no TPU, minutes for a large model, and
runs once at a time on a machine.  The step is that of `fit` in mixed bfloat16, official SGD, and
on JAX data-parallel over all cores of the topology; on TensorFlow (traced by tf.function, compiled
from its StableHLO) that of one core, without the sums over the others.  `--batch` is the number of
images on one core; `--largest` looks for the largest that fits; `--forward` is inference.
"""

import dataclasses
import os
import re
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("topology", "v3:2x2", "Of the TPU, such as v3:2x2 or v5e:2x2.")
flags.DEFINE_enum("backend", "jax", ["jax", "tensorflow"], "Keras backend of the step.")
flags.DEFINE_integer("batch", 128, "Images on one core.", lower_bound=1)
flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", lower_bound=16)
flags.DEFINE_integer("accumulation_steps", 1, "Micro-batches.", lower_bound=1)
flags.DEFINE_boolean("remat", False, "Compute the blocks again for their gradients.")
flags.DEFINE_boolean("forward", False, "Compile the inference and not the training step.")
flags.DEFINE_boolean(
    "largest", False, "Look for the largest batch of at most --batch that fits: 1, 2, 3, 4, 6, 8..."
)
MIB = 2**20
# What makes a program wait for its host.
HOST = re.compile(r"\b(?:infeed|outfeed)\(|is_host_transfer=true")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the compiler says of a program; sizes in bytes on one core.

    Args:
        arguments: state and batch.
        temporaries: what the program needs beyond them.
        flops: of one core and step.
        text: the optimized HLO.
    """

    arguments: int
    temporaries: int
    flops: float
    text: str


class JaxStep:
    """The data-parallel step of a compiled model on all cores."""

    def __init__(self, model, cores):
        import jax
        import numpy as np

        mesh = jax.sharding.Mesh(np.array(cores), ("batch",))
        self.model, self.num_cores = model, len(cores)
        self.everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self.divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def compile(self, batch):
        """The `Program` for a number of images on one core."""
        import jax

        def of(variables):
            return [
                jax.ShapeDtypeStruct(tuple(v.shape), v.dtype, sharding=self.everywhere)
                for v in variables
            ]

        model, size = self.model, batch * self.num_cores
        shape = (size, *model.config.image_size, 3)
        images = jax.ShapeDtypeStruct(shape, "float32", sharding=self.divided)
        labels = jax.ShapeDtypeStruct((size,), "int32", sharding=self.divided)
        weights = of(model.trainable_variables), of(model.non_trainable_variables)
        if FLAGS.forward:
            step = jax.jit(lambda *arguments: model.stateless_call(*arguments, training=False)[0])
            lowered = step.lower(*weights, images)
        else:
            state = (*weights, of(model.optimizer.variables), of(model.metrics_variables))
            step = jax.jit(model.train_step, donate_argnums=0)
            lowered = step.lower(state, (images, labels))
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
        return Program(
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            flops=compiled.cost_analysis()["flops"],
            text=compiled.as_text(),
        )


class TensorFlowStep:
    """The step of a compiled model on one core, as `tf.function` traces it."""

    num_cores = 1

    def __init__(self, model, cores):
        self.model, self.core = model, cores[0]

    def compile(self, batch):
        """The `Program` for a number of images."""
        import numpy as np
        from jax._src import compiler
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client

        text = self._stablehlo(batch)
        with mlir.make_ir_context():
            module = mlir.ir.Module.parse(text)
            _remove_copies(module.operation)
            _alias_variables(module)
            executable = self.core.client.compile(
                module,
                executable_devices=xla_client.DeviceList((self.core,)),
                compile_options=compiler.get_compile_options(
                    num_replicas=1,
                    num_partitions=1,
                    device_assignment=np.array([[self.core.id]]),
                    backend=self.core.client,
                ),
            )
        memory = executable.get_compiled_memory_stats()
        return Program(
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            flops=executable.cost_analysis()["flops"],
            text=executable.hlo_modules()[0].to_string(),
        )

    def _stablehlo(self, batch):
        import tensorflow as tf

        model = self.model
        images = tf.TensorSpec((batch, *model.config.image_size, 3), tf.float32)
        labels = tf.TensorSpec((batch,), tf.int32)
        if FLAGS.forward:
            function, arguments = lambda x: model(x, training=False), (images,)
        else:
            function, arguments = lambda x, y: model.train_step((x, y)), (images, labels)
        function = tf.function(function, jit_compile=True, autograph=False)
        return function.experimental_get_compiler_ir(*arguments)(stage="stablehlo")


def _remove_copies(operation):
    """Removes `mhlo.copy`, which changes nothing and which libtpu does not take from StableHLO."""
    for region in operation.regions:
        for block in region:
            for child in list(block):
                _remove_copies(child.operation)
                if child.operation.name == "mhlo.copy":
                    child.operation.results[0].replace_all_uses_with(child.operation.operands[0])
                    child.operation.erase()


def _alias_variables(module):
    """Says in StableHLO's words which outputs take the memory of which arguments."""
    from jax._src.lib.mlir import ir

    main = next(f for f in module.body if ir.StringAttr(f.sym_name).value == "main").operation
    attributes = [{} for _ in main.regions[0].blocks[0].arguments]
    for pair in module.operation.attributes["mhlo.input_output_alias"]:
        (output,) = ir.DenseI64ArrayAttr(pair["output_index"])
        number = ir.DictAttr(pair["alias"])["parameter_number"].value
        output = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), output)
        attributes[number] = {"tf.aliasing_output": output}
    attributes = [ir.DictAttr.get(attribute) for attribute in attributes]
    main.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


STEPS = {"jax": JaxStep, "tensorflow": TensorFlowStep}


def make_step(name):
    """The step of one of `keras_vit.list_models()` on the backend of the flag."""
    from jax.experimental import topologies

    import keras_vit
    from keras_vit.training.losses import SoftmaxCrossentropy
    from keras_vit.training.optimizers import SGD

    model = keras_vit.create_model(name, image_size=FLAGS.image_size, dtype="mixed_bfloat16")
    if FLAGS.remat:
        model.set_remat()
    optimizer = SGD(0.03, global_clipnorm=1.0, momentum_dtype="bfloat16")
    model.compile(optimizer, SoftmaxCrossentropy(), accumulation_steps=FLAGS.accumulation_steps)
    optimizer.build(model.trainable_variables)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=FLAGS.topology)
    return STEPS[FLAGS.backend](model, topology.devices)


def batch_sizes(largest):
    """1, 2, 3, 4, 6, 8, 12, ...: the powers of two and those between them, at most `largest`."""
    powers = [2**i for i in range(largest.bit_length())]
    return sorted({*powers, *(3 * power // 2 for power in powers[1:])} & {*range(largest + 1)})


def largest_that_fits(step, most):
    """Compiles smaller and smaller batches until one fits.

    From above, because the compiler takes minutes for what fits and refuses most of the rest soon.

    Returns:
        `(batch, Program)`.
    """
    import jax

    for batch in reversed(batch_sizes(most)):
        start = time.perf_counter()
        try:
            return batch, step.compile(batch)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes = " of ".join(re.findall(r"\d[\d.]*[GM]\b", str(error))[:2])
            seconds = time.perf_counter() - start
            print(f"does not fit    {batch}: {sizes}, {seconds:.0f} s", flush=True)
    raise app.UsageError("not even one image fits")


def main(argv):
    if len(argv) != 2:
        raise app.UsageError("name one model")
    os.environ.update(
        KERAS_BACKEND=FLAGS.backend,
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
    )
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    print(f"{argv[1]}, {FLAGS.image_size} px, {FLAGS.topology}, {FLAGS.backend}", flush=True)
    step, batch, start = make_step(argv[1]), FLAGS.batch, time.perf_counter()
    if FLAGS.largest:
        batch, program = largest_that_fits(step, batch)
    else:
        program = step.compile(batch)
    rows = {
        "images": f"{batch} a core",
        "cores": step.num_cores,
        "arguments": f"{program.arguments / MIB:.0f} MiB a core",
        "temporaries": f"{program.temporaries / MIB:.0f} MiB a core",
        "work": f"{program.flops / 1e12:.4g} TFLOP a core and step",
        "all-reduces": program.text.count("all-reduce("),
        "host operations": len(HOST.findall(program.text)),
        "dynamic shapes": program.text.count("[<="),
        "compiled in": f"{time.perf_counter() - start:.0f} s",
    }
    for name, value in rows.items():
        print(f"{name:15s} {value}")


if __name__ == "__main__":
    app.run(main)
