"""Speed as ratios between alternating runs; figures of a shared machine mean nothing by themselves.

    python tools/benchmark.py model      ViT-B/16 beside a plain Keras ViT of the same shape
    python tools/benchmark.py load       from_pretrained beside reading the same arrays with NumPy
    python tools/benchmark.py mirrored   a step on two logical CPUs beside one on one device
    python tools/benchmark.py memory     steps with remat, micro-batches or both
    python tools/benchmark.py import     import keras_vit beside import keras
    python tools/benchmark.py serving    an export, and its variants, beside predict_on_batch
    python tools/benchmark.py onnx       int8 ONNX files beside the float32 one, in onnxruntime
    python tools/benchmark.py fewshot    few-shot weights and predictions of ImageNet's size
    python tools/benchmark.py training_data    training batches of JPEGs of 500 x 375 beside the
                                               official order of work: decode whole, crop, resize
    python tools/benchmark.py evaluation_data  evaluation batches of the same beside the best of
                                               three settings of a plain tf.data pipeline
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
flags.DEFINE_integer("images", 256, "Photographs of the data benchmarks.", lower_bound=32)
flags.DEFINE_integer("quality", 92, "JPEG quality of the photographs.", lower_bound=1)
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


def training_steps(strategy_scope, remat=False, accumulation_steps=1, steps=2):
    """A function that trains for some steps of one batch, whose data are ready."""
    import keras
    import tensorflow as tf

    import keras_vit

    with strategy_scope:
        model = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size, dtype=FLAGS.dtype)
        model.set_remat(remat)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        sgd = keras.optimizers.SGD(1e-3, momentum=0.9)
        model.compile(sgd, loss, accumulation_steps=accumulation_steps)
    images = tf.zeros((FLAGS.batch_size, *model.config.image_size, 3))
    batch = tf.data.Dataset.from_tensors((images, tf.zeros((FLAGS.batch_size,), tf.int32)))
    batches = batch.repeat().prefetch(2)
    return lambda: model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)


def benchmark_mirrored():
    """A training step of two replicas beside one of one device with the same batch."""
    import contextlib

    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print(f"{FLAGS.model}, batch of {FLAGS.batch_size}, two steps; ours is on two replicas")
    mirrored = training_steps(strategy.scope())
    alternate(mirrored, training_steps(contextlib.nullcontext()), "mirrored step")


MEMORY_SAVERS = {
    "nothing saved": {},
    "remat": {"remat": True},
    "4 micro-batches": {"accumulation_steps": 4},
    "both": {"remat": True, "accumulation_steps": 4},
}


def benchmark_memory():
    """Seconds of computing and peak memory of two steps, each kind in a process of its own."""
    setup = (
        f"import contextlib, sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); "
        "from absl import flags; import benchmark; "
        f"flags.FLAGS({sys.argv!r}[:1] + {sys.argv[1:]!r}); "
        "steps = benchmark.training_steps(contextlib.nullcontext(), **{}); "
        "steps()"
    )
    rows = []
    for _ in range(FLAGS.rounds):
        row = {}
        for name, savers in MEMORY_SAVERS.items():
            # The first step makes the momentum and traces; its peak is the step's own.
            code = MEASURE.format(setup=setup.format(savers), work="steps()")
            # Of computing: those of the clock are also those of whoever else uses the machine.
            code = code.replace("- before)", "- 0)").replace("perf_counter", "process_time")
            row[name] = in_new_process(code)
            print(f"{name:16} {row[name][0]:6.2f} s {row[name][1] / 2**20:6.0f} MiB", flush=True)
        rows.append(row)
    for name in MEMORY_SAVERS:
        shares = [np.divide(row[name], row["nothing saved"]) for row in rows]
        time_ratio, memory_ratio = np.median(shares, axis=0)
        print(
            f"{FLAGS.model}, {name}: {time_ratio:.2f} of the time, {memory_ratio:.2f} of the peak"
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


def benchmark_serving():
    """Signatures of exports beside `predict_on_batch` of the model that they were made from."""
    import keras
    import tensorflow as tf

    import keras_vit
    from keras_vit.data.images.decode import decode_image
    from keras_vit.data.images.preprocess import evaluation_image
    from keras_vit.serving.standalone import example_images

    keras.utils.set_random_seed(0)
    model = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size)
    encoded = tf.constant([example_images()[0]] * FLAGS.batch_size)
    tensors = tf.stack([evaluation_image(decode_image(e), model.preprocessing) for e in encoded])
    images = tensors.numpy()
    print(f"{FLAGS.model}, batch {FLAGS.batch_size}; bytes are JPEGs of 480 x 640\n")
    for label, options in SERVING_VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            loaded = tf.saved_model.load(str(keras_vit.export(model, folder, **options)))
            functions = loaded.signatures
            for name, arguments in (
                ("tensors", {"tensors": tensors}),
                ("serving_default", {"image_bytes": encoded}),
            ):
                alternate(
                    lambda f=functions[name], a=arguments: f(**a),
                    lambda: model.predict_on_batch(images),
                    f"{label} {name}",
                )


def benchmark_onnx():
    """int8, dynamic and static, beside float32."""
    import keras

    import keras_vit
    from keras_vit.serving.onnx_litert import export_onnx, onnx_runner

    keras.utils.set_random_seed(0)
    model = keras_vit.create_model(FLAGS.model, image_size=FLAGS.image_size)
    shape = (FLAGS.batch_size, FLAGS.image_size, FLAGS.image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    runners = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, options in (
            ("float32", {}),
            ("int8, dynamic", {"quantization": "int8"}),
            ("int8, static", {"quantization": "int8", "calibration": [images]}),
        ):
            path = pathlib.Path(folder, "model.onnx")
            report = export_onnx(model, path, **options)
            print(f"{label}: {path.stat().st_size / 1e6:.1f} MB, {report.difference:.1e} apart")
            runners[label] = onnx_runner(path)
    whole = runners.pop("float32")
    for label, run in runners.items():
        alternate(lambda run=run: run(images), lambda: whole(images), label)


def benchmark_fewshot():
    """Seconds and memory of 65,000 + 50,000 made-up features of 1,000 classes."""
    import resource

    from keras_vit.evaluators.fewshot import few_shot_accuracies

    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 768)).astype(np.float32) for n in (65_000, 50_000))
    labels = [np.arange(len(features)) % 1000 for features in (train, test)]
    start, used = time.perf_counter(), time.process_time()
    few_shot_accuracies(train, labels[0], test, labels[1], num_classes=1000)
    seconds, computing = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:.1f} s, {computing:.1f} s of computing, peak {peak:.2f} GB")


SERVING_VARIANTS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int8 bfloat16": {"quantization": "int8", "dtype": "bfloat16"},
    "XLA": {"jit": True},
}


def write_photographs(folder):
    """A data set of `FLAGS.images` photographs of 500 x 375 in two classes; returns it resolved."""
    import sklearn.datasets
    from PIL import Image

    from keras_vit.data import pipeline

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(p) for p in sklearn.datasets.load_sample_images().images]
    sizes = []
    for k in range(FLAGS.images):
        photograph = photographs[k % 2]
        width = int(rng.integers(400, 560))
        height = width * 3 // 4
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        tile = photograph.crop((left, top, left + width, top + height)).resize((500, 375))
        path = pathlib.Path(folder, "train", "ab"[k % 2], f"{k}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        tile.save(path, quality=FLAGS.quality)
        sizes.append(path.stat().st_size)
    print(f"{FLAGS.images} JPEGs of 500 x 375, {sum(sizes) / len(sizes) / 1000:.0f} kB each")
    return pipeline.resolve(folder)


def timed(dataset, num_batches):
    """(seconds, seconds of computing) for an image, of batches after the first two."""
    iterator = iter(dataset)
    for _ in range(2):
        next(iterator)
    start, used = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(iterator)
    seconds = time.perf_counter() - start, time.process_time() - used
    return tuple(s / num_batches / FLAGS.batch_size for s in seconds)


def compare_data(ours, theirs):
    """Alternates between our data set and theirs, name -> data set; prints ratios of speed.

    Seconds of computing tell more than those of the clock where others use the machine as well.
    """
    num_batches = max(FLAGS.images // FLAGS.batch_size, 1)
    rows = []
    for i in range(FLAGS.rounds):
        datasets = {"ours": ours, **theirs}
        order = list(datasets)[:: 1 if i % 2 else -1]
        row = {name: timed(datasets[name], num_batches) for name in order}
        rows.append(row)
        cells = (f"{name} {t[0] * 1e3:.2f} ({t[1] * 1e3:.2f})" for name, t in sorted(row.items()))
        print("ms an image, of computing in brackets: " + "   ".join(cells))
    for kind, which in (("clock", 0), ("computing", 1)):
        ratios = [min(row[name][which] for name in theirs) / row["ours"][which] for row in rows]
        print(
            f"{kind}: ours is {statistics.median(ratios):.2f} times as fast as the best of theirs"
        )


def official_training(tf, encoded, size):
    """vit_jax's order of work, without any check of the data."""
    image = tf.io.decode_jpeg(encoded, channels=3)
    begin, window, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((0, 0, 4), tf.float32),
        area_range=(0.05, 1.0),
        min_object_covered=0,
        use_image_if_no_bounding_boxes=True,
    )
    image = tf.ensure_shape(tf.slice(image, begin, window), (None, None, 3))
    image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size)))
    return (image - 127.5) / 127.5


def benchmark_training_data():
    """Training batches beside the official order of work, both by tf.data with AUTOTUNE."""
    import tensorflow as tf

    from keras_vit.data import examples, pipeline
    from keras_vit.models.preprocessing import Preprocessing

    size = FLAGS.image_size
    with tempfile.TemporaryDirectory() as folder:
        info = write_photographs(folder)
        files = info.source.splits["train"]

        def read(path, label):
            return official_training(tf, tf.io.read_file(path), size), label

        theirs = tf.data.Dataset.from_tensor_slices((list(files.paths), list(files.labels)))
        theirs = theirs.repeat().shuffle(FLAGS.images).map(read, tf.data.AUTOTUNE)
        theirs = theirs.batch(FLAGS.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        for label, max_pixel_bytes in (
            ("files read again in each epoch", 0),
            ("images decoded once, their pixels in memory", examples.MAX_PIXEL_BYTES),
        ):
            examples.MAX_PIXEL_BYTES = max_pixel_bytes
            ours = pipeline.training_dataset(
                *(info, "train", Preprocessing(image_size=(size, size))),
                batch_size=FLAGS.batch_size,
                seed=0,
                augmentation="crop_flip",
            )
            print(label)
            compare_data(ours, {"official": theirs})


def benchmark_evaluation_data():
    """Evaluation batches beside plain tf.data with one, all and self-chosen threads."""
    import os

    import tensorflow as tf

    from keras_vit.data import pipeline
    from keras_vit.models.preprocessing import Preprocessing

    size = FLAGS.image_size
    with tempfile.TemporaryDirectory() as folder:
        info = write_photographs(folder)
        files = info.source.splits["train"]
        rule = Preprocessing(image_size=(size, size))

        def read(path, label):
            image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
            return (tf.image.resize(image, (size, size)) - 127.5) / 127.5, label

        def plain(num_threads):
            data = tf.data.Dataset.from_tensor_slices((list(files.paths), list(files.labels)))
            data = data.map(read, num_threads).batch(FLAGS.batch_size, drop_remainder=True)
            return data.prefetch(tf.data.AUTOTUNE).repeat()

        settings = {"1 thread": 1, f"{os.cpu_count()} threads": os.cpu_count()}
        settings = {**settings, "autotune": tf.data.AUTOTUNE}
        for label, repeated in (
            ("files read again in each pass", False),
            ("images decoded once, their pixels in memory", True),
        ):
            ours = pipeline.evaluation_dataset(
                info, "train", rule, batch_size=FLAGS.batch_size, repeated=repeated
            )
            print(label)
            compare_data(ours.repeat(), {name: plain(n) for name, n in settings.items()})


def benchmark_resume():
    """What `ExactResume` adds to a training that saves its state every 100 steps."""
    import keras

    import keras_vit
    from keras_vit.training.optimizers import AdamW
    from keras_vit.training.resume.state_file import State, StateFolder, capture

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
    "serving": benchmark_serving,
    "onnx": benchmark_onnx,
    "fewshot": benchmark_fewshot,
    "training_data": benchmark_training_data,
    "evaluation_data": benchmark_evaluation_data,
    "mirrored": benchmark_mirrored,
    "memory": benchmark_memory,
    "resume": benchmark_resume,
}


def main(argv):
    if len(argv) != 2 or argv[1] not in BENCHMARKS:
        raise app.UsageError(f"name one of {', '.join(BENCHMARKS)}")
    BENCHMARKS[argv[1]]()


if __name__ == "__main__":
    app.run(main)
