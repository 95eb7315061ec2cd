"""Where a training runs: one device, several of this machine, several machines, a TPU.

On the TensorFlow backend these are the strategies of `tf.distribute`, on the JAX backend those of
`keras.distribution`.  docs/distribution.md says what holds under each.

Imports nothing heavy, so that the command's help can list the strategies.
"""

import contextlib
import functools
import json
import os

from absl import logging

from keras_vit.distribution.placement import Placement
from keras_vit.distribution.signals import take_back_sigterm
from keras_vit.distribution.workers import ending_at_once

TENSORFLOW, JAX = "tensorflow", "jax"
# name -> the backends that have it
STRATEGIES = {
    "auto": (TENSORFLOW, JAX, "torch"),
    "cpu": (TENSORFLOW, JAX),
    "mirrored": (TENSORFLOW,),
    "multiworker": (TENSORFLOW,),
    "tpu": (TENSORFLOW,),
    "data_parallel": (JAX,),
    "fsdp": (JAX,),
    "model_parallel": (JAX,),
}

# Variable path -> what is split over the devices of the mesh's axis "model": the attention's heads
# (D, k, d), (k, d), (k, d, D), and the hidden layer of the MLP.
MODEL_PARALLEL_LAYOUT = {
    r".*/(query|key|value)_kernel": (None, "model", None),
    r".*/(query|key|value)_bias": ("model", None),
    r".*/out_kernel": ("model", None, None),
    r".*/mlp/dense_1/kernel": (None, "model"),
    r".*/mlp/dense_1/bias": ("model",),
    r".*/mlp/dense_2/kernel": ("model", None),
}


def place(strategy=None, *, tpu=None, model_shards=2):
    """Makes ready what a strategy needs.  Call it before TensorFlow or JAX computes anything.

    Args:
        strategy: None for one device, the default one of the backend; a name of `STRATEGIES`; a
            `tf.distribute.Strategy` or a `keras.distribution` one of your own; or a `Placement`,
            which is returned.  `"auto"` is `"multiworker"` where `TF_CONFIG` names several workers,
            else `"mirrored"` or `"data_parallel"` where there are several accelerators, or several
            processes of JAX, else one device.
        tpu: name or address of a Cloud TPU, for `"tpu"`; None is the TPU of this machine.
        model_shards: on how many devices `"model_parallel"` splits each block; a divisor of the
            number of devices, and of the number of heads.

    Returns:
        A `Placement`.

    Raises:
        ValueError: for an unknown strategy, one that the backend does not have, or one for which
            something is missing.
    """
    if isinstance(strategy, Placement):
        return strategy
    import keras

    backend = keras.backend.backend()
    if backend == JAX:
        from keras_vit.distribution import jax_processes

        jax_processes.join()
    if strategy is None:
        return _single()
    if not isinstance(strategy, str):
        return _of_object(strategy)
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}"
        )
    if backend not in STRATEGIES[strategy]:
        able = [name for name, backends in STRATEGIES.items() if backend in backends]
        raise ValueError(
            f"the {backend} backend has the strategies {', '.join(able)}. Received: {strategy!r}, "
            f"which needs KERAS_BACKEND={STRATEGIES[strategy][0]}"
        )
    if tpu is not None and strategy != "tpu":
        raise ValueError(f"`tpu` goes with the strategy 'tpu'. Received: {tpu!r} and {strategy!r}")
    if strategy == "auto":
        strategy = _automatic(backend)
    return _MAKERS[strategy](tpu=tpu, model_shards=model_shards)


def _automatic(backend):
    import keras

    if backend == TENSORFLOW:
        import tensorflow as tf

        if len(_cluster().get("worker", ())) + len(_cluster().get("chief", ())) > 1:
            return "multiworker"
        return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "single"
    if backend == JAX:
        devices = keras.distribution.list_devices()
        several = len(devices) > 1 and not devices[0].startswith("cpu")
        return "data_parallel" if several or _num_processes() > 1 else "single"
    return "single"


def has_accelerator():
    """Whether the backend computes on a GPU or TPU."""
    import keras

    try:
        devices = keras.distribution.list_devices()
    except (AttributeError, NotImplementedError, RuntimeError):  # a backend that cannot tell
        return False
    return any(not device.lower().startswith("cpu") for device in devices)


def _cluster():
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    except (ValueError, AttributeError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON like {'cluster': {'worker': ['host:port', ...]}, 'task': "
            f"{{'type': 'worker', 'index': 0}}}}. Received: {os.environ['TF_CONFIG']!r}"
        ) from error


def _num_processes():
    """Of JAX, which runs the same program in each of them; 1 on other backends."""
    import keras

    if keras.backend.backend() != JAX:
        return 1
    import jax

    return jax.process_count()


def _check_one_process(name):
    if _num_processes() > 1:
        raise ValueError(
            f"several processes of JAX train by 'data_parallel' or 'model_parallel'. Received: "
            f"{name} in {_num_processes()} processes, which would all do the same"
        )


def _single(**_):
    _check_one_process("one device")
    return Placement()


def _cpu(**_):
    import keras

    _check_one_process("'cpu'")
    return Placement(name="cpu", make_scope=lambda: keras.device("cpu:0"))


@functools.cache
def mirrored_strategy():
    """The `tf.distribute.MirroredStrategy` over all GPUs of this machine, or all CPUs.

    One for the whole process: the sums of two strategies over the same devices have the same keys,
    which TensorFlow mixes up.
    """
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _mirrored(**_):
    return _of_object(mirrored_strategy())


def _multiworker(**_):
    import tensorflow as tf

    if not _cluster():
        raise ValueError(
            "the strategy 'multiworker' needs TF_CONFIG, with the addresses of all workers and the "
            "index of this one. Received: none; set it, or see tools/launch_local.py"
        )
    addresses = [address for task in ("chief", "worker") for address in _cluster().get(task, ())]
    logging.info("waiting for all of the %d workers: %s", len(addresses), ", ".join(addresses))
    try:
        return _of_object(tf.distribute.MultiWorkerMirroredStrategy())
    except RuntimeError as error:
        raise ValueError(
            "the strategy 'multiworker' must be made before TensorFlow computes anything. "
            f"Received: {error}"
        ) from error


def _tpu(tpu, **_):
    import tensorflow as tf

    try:
        # "local" is a TPU of this machine, as on a TPU VM.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu or "local")
        if tpu not in (None, "local"):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return _of_object(tf.distribute.TPUStrategy(resolver))
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError) as error:
        raise ValueError(
            "the strategy 'tpu' needs a TPU, and a TensorFlow that has its operations "
            f"(pip install 'keras-vision-transformer[tpu]'). Received: {str(error).splitlines()[0]}"
        ) from error


def _data_parallel(**_):
    import keras

    return _of_object(
        keras.distribution.DataParallel(
            devices=keras.distribution.list_devices(), auto_shard_dataset=False
        )
    )


def _fsdp(**_):
    import keras

    from keras_vit.distribution.fully_sharded import FullyShardedDataParallel

    return _of_object(FullyShardedDataParallel(keras.distribution.list_devices()))


def _model_parallel(model_shards, **_):
    import keras

    devices = keras.distribution.list_devices()
    num_local = len(devices) // _num_processes()
    if model_shards < 1 or num_local % model_shards:
        raise ValueError(
            f"`model_shards` must divide the number of devices of a process {num_local}. "
            f"Received: {model_shards}"
        )
    mesh = keras.distribution.DeviceMesh(
        (len(devices) // model_shards, model_shards), ("batch", "model"), devices
    )
    layout = keras.distribution.LayoutMap(mesh)
    for path, axes in MODEL_PARALLEL_LAYOUT.items():
        layout[path] = axes
    return _of_object(
        keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
        )
    )


_MAKERS = {
    "single": _single,
    "cpu": _cpu,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
    "data_parallel": _data_parallel,
    "fsdp": _fsdp,
    "model_parallel": _model_parallel,
}


def _of_object(strategy):
    """The `Placement` of a strategy that is there."""
    import keras

    backend = keras.backend.backend()
    if isinstance(strategy, keras.distribution.DataParallel | keras.distribution.ModelParallel):
        if backend != JAX:
            raise ValueError(
                "`keras.distribution` works on the JAX backend only; on others Keras would train "
                f"on one device. Received: {type(strategy).__name__} on {backend}"
            )
        return _of_distribution(strategy)
    if backend == TENSORFLOW:
        import tensorflow as tf

        if isinstance(strategy, tf.distribute.Strategy):
            return _of_tf_strategy(strategy)
    raise TypeError(
        "`strategy` must be a name, a `tf.distribute.Strategy` on the TensorFlow backend, or a "
        f"`keras.distribution` one on JAX. Received: {type(strategy).__name__} on {backend}"
    )


def _of_tf_strategy(strategy):
    import tensorflow as tf

    kinds = {
        "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
        "mirrored": tf.distribute.MirroredStrategy,
        "tpu": tf.distribute.TPUStrategy,
    }
    name = next((name for name, kind in kinds.items() if isinstance(strategy, kind)), None)
    several = {}
    if name == "multiworker":
        from keras_vit.distribution import tensorflow_workers

        take_back_sigterm()
        workers = tensorflow_workers.make_workers(strategy, len(_cluster().get("chief", ())))
        several = {"workers": workers, "find_lost": tensorflow_workers.find_lost}
    return Placement(
        name=name or type(strategy).__name__,
        num_replicas=strategy.num_replicas_in_sync,
        make_scope=strategy.scope,
        **several,
    )


def _of_distribution(distribution):
    import keras

    from keras_vit.distribution.fully_sharded import FullyShardedDataParallel

    kinds = {  # the first that fits
        "data_parallel": keras.distribution.DataParallel,
        "fsdp": FullyShardedDataParallel,
        "model_parallel": keras.distribution.ModelParallel,
    }
    name = next(name for name, kind in kinds.items() if isinstance(distribution, kind))
    mesh = distribution.device_mesh
    batch_axis = mesh.axis_names.index(distribution.batch_dim_name)
    several = {}
    if _num_processes() > 1 and name == "fsdp":
        raise ValueError(
            "the strategy 'fsdp' splits the weights over the devices of one process, so that they "
            f"can be written by one. Received: {_num_processes()} processes; use 'data_parallel' "
            "or 'model_parallel'"
        )
    if _num_processes() > 1:
        from keras_vit.distribution import jax_processes

        if distribution.auto_shard_dataset:
            raise ValueError(
                "the data of several processes are read in shares: the distribution must be made "
                "with `auto_shard_dataset=False`. Received: True"
            )
        devices = mesh.backend_mesh.devices.swapaxes(0, batch_axis)
        devices = devices.reshape(len(devices), -1)
        if any(len({device.process_index for device in row}) > 1 for row in devices):
            raise ValueError(
                "the devices that share an example must be those of one process. Received: a mesh "
                f"of {dict(zip(mesh.axis_names, mesh.shape, strict=True))} over {_num_processes()}"
            )
        workers = jax_processes.make_workers()
        workers.gather(None)  # now, while all are here: CPUs wait 30 s only to be connected
        several = {"workers": workers, "find_lost": jax_processes.find_lost}
        several["data_shard"] = (workers.index, workers.number)
    return Placement(
        name=name,
        num_replicas=mesh.shape[batch_axis],
        make_scope=lambda: _distribution_scope(distribution),
        **several,
    )


@contextlib.contextmanager
def _distribution_scope(distribution):
    import keras

    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        with ending_at_once():
            yield
    finally:
        keras.distribution.set_distribution(before)
