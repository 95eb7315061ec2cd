"""Speed and memory of one model, each measurement in a process of its own.

A process of its own has the backend that is asked for, a peak of memory that is nobody else's, and
may die of too large a batch without harm.
"""

import dataclasses
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

import numpy as np

TASKS = ("inference", "training")
BACKENDS = ("tensorflow", "jax")
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")

# A multiply-add is two operations; a training step is the forward pass and twice that for the
# gradients of activations and weights.
_OPERATIONS = {"inference": 2, "training": 6}
# Side of the square product whose speed counts as the peak.
_PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
_LARGEST_BATCH = 4096
# Twice the batch must be faster by this factor for the search to go on.
_WORTH_DOUBLING = 1.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured.

    Args:
        model: Name of `keras_vit.list_models()`.
        task: `"inference"`, or `"training"`: a step of SGD with momentum.
        backend: `"tensorflow"` or `"jax"`.
        dtype: Dtype policy of the model.
        batch_size: Images in a batch.
        image_size: Side of the images in pixels; None keeps that of the model.
        seconds: How long batches are timed, after those that compile.
        profile: Folder for a trace that TensorBoard and xprof read, or None.
    """

    model: str
    task: str = "inference"
    backend: str = "tensorflow"
    dtype: str = "float32"
    batch_size: int = 1
    image_size: int | None = None
    seconds: float = 5.0
    profile: str | None = None


def measure(work):
    """Does the work in a new process.

    Returns:
        A dict: the fields of `work`, and `device`, `images_per_second`, `latency_ms_p50`, `_p90`
        and `_p99` of a batch, `cpu_seconds` of a batch, `memory_mb` (the peak beyond the process
        with the model built, on CPUs; that of the device elsewhere), `tflops` (10^12 operations a
        second) and `share_of_peak` (of the speed of one large product of matrices in the dtype).
        Where the process failed, `error` stands in the place of the numbers.
    """
    row = {k: v for k, v in dataclasses.asdict(work).items() if k not in ("seconds", "profile")}
    root = str(pathlib.Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, "-m", "keras_vit.benchmarks.speed", json.dumps(dataclasses.asdict(work))],
        env={**os.environ, "KERAS_BACKEND": work.backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [""]
        killed = f"ended by signal {-result.returncode}" if result.returncode < 0 else lines[-1]
        return {**row, "error": killed}
    return {**row, **json.loads(result.stdout.splitlines()[-1])}


def each(work, batch_sizes):
    """Yields the rows of `measure` for each batch size."""
    for batch_size in batch_sizes:
        yield measure(dataclasses.replace(work, batch_size=batch_size))


def search(work, measure=measure):
    """Doubles the batch, from 1 on, while it fits into memory and more images a second come out.

    Args:
        work: `Work`, whose batch size is not read.
        measure: What measures one.

    Yields:
        The rows of `measure`, the last one perhaps with an `error`.
    """
    batch_size, best = 1, 0.0
    while batch_size <= _LARGEST_BATCH:
        row = measure(dataclasses.replace(work, batch_size=batch_size))
        yield row
        if "error" in row or row["images_per_second"] < best * _WORTH_DOUBLING:
            return
        best = row["images_per_second"]
        if row["device"] == "cpu" and 2 * row["memory_mb"] > _available_mb():
            return
        batch_size *= 2


def run(work):
    """Does the work in this process, whose backend must be the one of `work`; see `measure`."""
    import keras

    from keras_vit.models import cost
    from keras_vit.zoo.loading import create_model

    keras.utils.set_random_seed(0)
    options = {} if work.image_size is None else {"image_size": work.image_size}
    model = create_model(work.model, dtype=work.dtype, **options)
    step = _step(model, work)
    device = _device()
    before = _process_mb("VmRSS")
    step()
    step()
    peak = _process_mb("VmHWM") - before if device == "cpu" else _device_peak_mb()
    walls, cpu = _timed(step, work.seconds)
    if work.profile is not None:
        _write_trace(step, work.profile)
    throughput = work.batch_size * len(walls) / sum(walls)
    operations = _OPERATIONS[work.task] * cost.count_multiply_adds(model.config)
    percentiles = np.percentile(walls, (50, 90, 99)) * 1e3
    tflops = operations * throughput / 1e12
    return {
        "device": device,
        "images_per_second": throughput,
        **{f"latency_ms_p{p}": ms for p, ms in zip((50, 90, 99), percentiles, strict=True)},
        "cpu_seconds": cpu,
        "memory_mb": peak,
        "tflops": tflops,
        "share_of_peak": tflops / _peak_tflops(model.dtype_policy.compute_dtype, device),
    }


def _step(model, work):
    import keras

    config = model.config
    shape = (work.batch_size, *config.image_size, config.in_channels)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    if work.task == "inference":
        return lambda: model.predict_on_batch(images)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    labels = np.arange(work.batch_size) % config.num_classes
    return lambda: model.train_on_batch(images, labels)


def _timed(step, seconds):
    """Seconds of each call, and seconds of computing of one."""
    walls = []
    start, used = time.perf_counter(), time.process_time()
    while not walls or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        step()
        walls.append(time.perf_counter() - began)
    return walls, (time.process_time() - used) / len(walls)


def _peak_tflops(dtype, device):
    """10^12 operations a second of a product of square matrices."""
    import keras
    from keras import ops

    side = _PEAK_SIDE[device]
    matrix = ops.cast(keras.random.uniform((side, side), -1.0, 1.0, seed=0), dtype)

    def multiply():
        # The sum waits for the product, and little goes back to the host.
        return float(
            ops.convert_to_numpy(ops.cast(ops.sum(ops.matmul(matrix, matrix)[0]), "float32"))
        )

    multiply()
    walls, _ = _timed(multiply, 2.0)
    return 2 * side**3 / min(walls) / 1e12


def _device():
    """What the backend computes on: "cpu", "gpu" or "tpu"."""
    import keras

    kinds = {name.split(":")[0].lower() for name in keras.distribution.list_devices()}
    return next((kind for kind in ("gpu", "tpu") if kind in kinds), "cpu")


def _device_peak_mb():
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6


def _process_mb(name):
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except FileNotFoundError:
        # macOS counts bytes, and knows the peak alone.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return int(re.search(rf"{name}:\s*(\d+)", status)[1]) * 1024 / 1e6


def _available_mb():
    try:
        info = pathlib.Path("/proc/meminfo").read_text()
    except FileNotFoundError:
        return float("inf")
    return int(re.search(r"MemAvailable:\s*(\d+)", info)[1]) * 1024 / 1e6


def _write_trace(step, folder):
    import keras

    if keras.backend.backend() == "jax":
        import jax

        with jax.profiler.trace(folder):
            step()
        return
    import tensorflow as tf

    tf.profiler.experimental.start(folder)
    step()
    tf.profiler.experimental.stop()


if __name__ == "__main__":
    print(json.dumps(run(Work(**json.loads(sys.argv[1])))))
