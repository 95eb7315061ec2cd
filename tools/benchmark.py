"""Speed as ratios between alternating runs; figures of a shared machine mean nothing by themselves.

    python tools/benchmark.py model      ViT-B/16 beside a plain Keras ViT of the same shape
    python tools/benchmark.py load       from_pretrained beside reading the same arrays with NumPy
    python tools/benchmark.py import     import keras_vit beside import keras
    python tools/benchmark.py resume     saving a training's state beside its steps

Each run prints every pair and the median ratio (ours / theirs; below 1 is faster).
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "How many alternating pairs are timed.", lower_bound=1)
flags.DEFINE_integer("batch_size", 8, "Images in a batch.", lower_bound=1)
flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", lower_bound=16)
flags.DEFINE_string("model", "ViT-B/16", "Name of the model.")
flags.DEFINE_string("dtype", "float32", "Dtype policy of both models.")
flags.DEFINE_enum("gelu", "tanh", ["tanh", "exact"], "GELU of both models.")


def plain_keras_vit(config):
    """The same architecture from what Keras ships: MultiHeadAttention, Dense, Conv2D."""
    import keras

    class Tokens(keras.layers.Layer):
        def build(self, input_shape):
            self.cls = self.add_weight(name="cls", shape=(1, 1, input_shape[-1]))
            shape = (1, input_shape[1] + 1, input_shape[-1])
            self.positions = self.add_weight(name="positions", shape=shape)

        def call(self, x):
            first = keras.ops.broadcast_to(self.cls, (keras.ops.shape(x)[0], 1, x.shape[-1]))
            return keras.ops.concatenate([first, x], axis=1) + self.positions

    images = keras.Input((*config.image_size, 3))
    x = keras.layers.Conv2D(config.hidden_size, config.patch_size, config.patch_size)(images)
    x = Tokens()(keras.layers.Reshape((-1, config.hidden_size))(x))
    for _ in range(config.depth):
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        head_size = config.hidden_size // config.num_heads
        x = x + keras.layers.MultiHeadAttention(config.num_heads, head_size)(y, y)
        y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
        y = keras.layers.Dense(config.mlp_dim)(y)
        y = keras.ops.gelu(y, approximate=config.gelu == "tanh")
        x = x + keras.layers.Dense(config.hidden_size)(y)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    logits = keras.layers.Dense(config.num_classes, dtype="float32")(x[:, 0])
    return keras.Model(images, logits)


def alternate(ours, theirs, label):
    """Times both in turn; prints each pair and the median ratio."""
    ratios, times = [], []
    for i in range(FLAGS.rounds + 1):
        pair = []
        # The order changes each round, so that neither always runs on the warmer machine.
        for which in ((0, 1), (1, 0))[i % 2]:
            start = time.perf_counter()
            (ours, theirs)[which]()
            pair.append((which, time.perf_counter() - start))
        mine, other = (seconds for _, seconds in sorted(pair))
        if i == 0:
            continue  # tracing and first allocations
        ratios.append(mine / other)
        times.append((mine, other))
        print(f"{label:24s} ours {mine:8.3f} s   theirs {other:8.3f} s   ratio {mine / other:.3f}")
    best = min(t[0] for t in times) / min(t[1] for t in times)
    print(f"{label:24s} median ratio {statistics.median(ratios):.3f}   of the minima {best:.3f}\n")


def benchmark_model():
    """Inference and a training step beside the plain Keras ViT."""
    import keras

    import keras_vit

    keras.config.set_dtype_policy(FLAGS.dtype)
    keras.utils.set_random_seed(0)
    ours = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size, gelu=FLAGS.gelu)
    theirs = plain_keras_vit(ours.config)
    shape = (FLAGS.batch_size, *ours.config.image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    labels = np.arange(FLAGS.batch_size) % ours.config.num_classes
    print(f"{FLAGS.model}, {shape}, {FLAGS.dtype}, {FLAGS.gelu} GELU, {keras.backend.backend()}")
    print(f"parameters: ours {ours.count_params():,}, theirs {theirs.count_params():,}\n")
    alternate(
        lambda: ours.predict_on_batch(images), lambda: theirs.predict_on_batch(images), "inference"
    )
    for model in (ours, theirs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    alternate(
        lambda: ours.train_on_batch(images, labels),
        lambda: theirs.train_on_batch(images, labels),
        "training step",
    )


def in_new_process(code):
    """(seconds, peak bytes beyond the start) that a program prints on its last line."""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    seconds, peak = output.split()[-2:]
    return float(seconds), float(peak)


MEASURE = """
import re, time
import keras, numpy as np
# Not getrusage's: its peak survives the exec that started this process.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
{setup}
before, start = peak(), time.perf_counter()
{work}
print(time.perf_counter() - start, peak() - before)
"""


def benchmark_load():
    """`from_pretrained` beside `numpy.load`, each in a process of its own."""
    import keras_vit

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.npz")
        model = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size)
        rng = np.random.default_rng(0)
        for variable in model.weights:
            variable.assign(rng.standard_normal(variable.shape, "float32"))
        keras_vit.save_pretrained(model, path)
        del model
        size = path.stat().st_size
        programs = {
            "ours": ("import keras_vit", f"m = keras_vit.from_pretrained({str(path)!r})"),
            "theirs": ("", f"f = np.load({str(path)!r}); d = {{k: f[k] for k in f.files}}"),
        }
        ratios = []
        for _ in range(FLAGS.rounds):
            row = {}
            for name, (setup, work) in programs.items():
                row[name] = in_new_process(MEASURE.format(setup=setup, work=work))
            ratios.append(row["ours"][0] / row["theirs"][0])
            print(
                f"ours {row['ours'][0]:6.3f} s, peak {row['ours'][1] / size:.2f} of the file   "
                f"numpy {row['theirs'][0]:6.3f} s, {row['theirs'][1] / size:.2f}   "
                f"ratio {ratios[-1]:.2f}"
            )
        print(f"{FLAGS.model}, {size / 1e6:.0f} MB: median ratio {statistics.median(ratios):.2f}")


def benchmark_import():
    """`import keras_vit` beside `import keras`, each in a process of its own."""
    code = "import time; s = time.perf_counter(); import {}; print(time.perf_counter() - s, 0)"
    differences = []
    for _ in range(FLAGS.rounds):
        theirs, ours = (in_new_process(code.format(m))[0] for m in ("keras", "keras, keras_vit"))
        differences.append(ours - theirs)
        print(f"keras {theirs:.2f} s   with keras_vit {ours:.2f} s   more {ours - theirs:+.2f} s")
    print(f"median of what keras_vit adds: {statistics.median(differences):+.2f} s")


def benchmark_resume():
    """What `ExactResume` adds to a training that saves its state every 100 steps."""
    import keras

    import keras_vit
    from keras_vit.training.optimizers import AdamW
    from keras_vit.training.states import State, StateFolder, capture

    keras.config.set_dtype_policy(FLAGS.dtype)
    model = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(1e-4, weight_decay=0.1), loss)
    shape = (FLAGS.batch_size, *model.config.image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    labels = np.arange(FLAGS.batch_size) % model.config.num_classes
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        states = StateFolder(folder)
        for i in range(FLAGS.rounds + 1):
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            step = time.perf_counter() - start
            start = time.perf_counter()
            state = State(step=i, facts={}, arrays=capture(model))
            path = states.write(state)
            save = time.perf_counter() - start
            if i == 0:
                continue
            shares.append(save / (100 * step))
            print(
                f"step {step:7.3f} s   save {save:7.3f} s   "
                f"every 100 steps {100 * shares[-1]:.2f} %"
            )
        size = path.stat().st_size / state.num_bytes()
    print(
        f"{FLAGS.model}, {shape}, AdamW: median {100 * statistics.median(shares):.2f} % of the "
        f"time; {state.num_bytes() / 1e6:.0f} MB of arrays, {size:.4f} times that on disk"
    )


BENCHMARKS = {
    "model": benchmark_model,
    "load": benchmark_load,
    "import": benchmark_import,
    "resume": benchmark_resume,
}


def main(argv):
    if len(argv) != 2 or argv[1] not in BENCHMARKS:
        raise app.UsageError(f"name one of {', '.join(BENCHMARKS)}")
    BENCHMARKS[argv[1]]()


if __name__ == "__main__":
    app.run(main)
