import json

import keras
import pytest

from keras_vit.distribution import jax_processes, strategy
from keras_vit.distribution.fully_sharded import FullyShardedDataParallel
from keras_vit.distribution.strategy import STRATEGIES, Placement, place
from keras_vit.distribution.workers import Workers
from keras_vit.errors import TrainingError
from keras_vit.training import run_folder
from keras_vit.training.run import pretrain
from keras_vit.training.sweep import sweep
from tests.training.in_threads import run_workers

backend = keras.backend.backend()


@pytest.mark.parametrize(
    "name", [n for n, backends in STRATEGIES.items() if backend not in backends]
)
def test_strategy_of_another_backend_is_refused(name):
    with pytest.raises(ValueError, match=f"the {backend} backend has .* Received: '{name}'"):
        place(name)


def test_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, cpu.* Received: 'mirror'"):
        place("mirror")
    with pytest.raises(TypeError, match="Received: int"):
        place(3)


@pytest.mark.skipif(backend != "jax", reason="Keras has these variables for JAX")
def test_several_processes_on_jax_that_are_not_all_named_are_refused(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "1")
    assert place("auto") == Placement()
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    monkeypatch.delenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", raising=False)
    with pytest.raises(ValueError, match="must fit together. Received: '2', '' and ''"):
        place("data_parallel")


@pytest.mark.skipif(backend != "jax", reason="processes of JAX")
def test_several_processes_on_jax_share_the_work(monkeypatch):
    monkeypatch.setattr(strategy, "_num_processes", lambda: 2)
    for name in (None, "cpu"):
        with pytest.raises(ValueError, match="in 2 processes, which would all do the same"):
            place(name)
    with monkeypatch.context() as context:
        devices = [f"cpu:{index}" for index in range(6)]
        context.setattr(keras.distribution, "list_devices", lambda: devices)
        with pytest.raises(ValueError, match="devices of a process 3. Received: 2"):
            place("model_parallel")
    sharded = FullyShardedDataParallel(keras.distribution.list_devices())
    for name in ("fsdp", sharded):
        with pytest.raises(ValueError, match="devices of one process.* Received: 2 processes"):
            place(name)
    shared = keras.distribution.DataParallel(devices=keras.distribution.list_devices())
    with pytest.raises(ValueError, match="with `auto_shard_dataset=False`. Received: True"):
        place(shared)
    monkeypatch.setattr(jax_processes, "make_workers", lambda: Workers(index=1, number=2))
    for name in ("auto", "data_parallel"):
        placement = place(name)
        assert (placement.name, placement.data_shard) == ("data_parallel", (1, 2))
        assert placement.find_lost(ValueError("UNKNOWN: Gloo all-reduce failed: x"))


def test_tpu_name_goes_with_the_tpu_only():
    with pytest.raises(ValueError, match="goes with the strategy 'tpu'. Received: 'node'"):
        place("auto", tpu="node")


def test_no_strategy_is_one_device():
    assert place() == place("auto") == Placement()
    assert place(Placement(name="mine")).name == "mine"


@pytest.mark.tensorflow_only
def test_mirrored_takes_the_devices_of_this_machine():
    placement = place("mirrored")
    assert (placement.name, placement.num_replicas) == ("mirrored", 2)
    assert placement.workers == Workers()
    with placement.scope():
        import tensorflow as tf

        assert tf.distribute.get_strategy().num_replicas_in_sync == 2
    assert place(tf.distribute.OneDeviceStrategy("CPU:0")).num_replicas == 1


@pytest.mark.tensorflow_only
def test_keras_distribution_on_tensorflow_is_refused():
    distribution = keras.distribution.DataParallel(devices=["cpu:0"])
    with pytest.raises(ValueError, match="on others Keras would train on one device"):
        place(distribution)


@pytest.mark.tensorflow_only
def test_multiworker_needs_its_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="needs TF_CONFIG.* Received: none"):
        place("multiworker")
    monkeypatch.setenv("TF_CONFIG", "worker")
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON.* Received: 'worker'"):
        place("auto")


@pytest.mark.tensorflow_only
def test_auto_takes_the_workers_of_tf_config(monkeypatch):
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster}))
    assert strategy._automatic("tensorflow") == "multiworker"


@pytest.mark.tensorflow_only
def test_lost_worker_is_a_training_error_and_other_errors_pass():
    import tensorflow as tf

    from keras_vit.distribution.tensorflow_workers import find_lost

    workers = Workers(index=1, number=2)
    placement = Placement(name="multiworker", workers=workers, find_lost=find_lost)
    # What three workers hear: of the one that is lost, by way of the other that is there.
    message = (
        "Detected at node gather, on /job:worker/replica:0/task:2:\n\n"
        "Collective ops is aborted by: Collective ops is aborted by: Connection reset by peer\n"
        "Additional error information from remote target /job:worker/replica:0/task:0 while\n"
        "Additional error information from remote target /job:worker/replica:0/task:1 while\n"
    )
    with (
        pytest.raises(TrainingError, match=r"\(/job:worker/replica:0/task:0\).*: Connection reset"),
        placement.scope(),
    ):
        raise tf.errors.UnavailableError(None, None, message)
    lost = [
        tf.errors.InternalError(None, None, message),
        tf.errors.UnavailableError(None, None, "x"),
    ]
    for error in lost:
        with pytest.raises(TrainingError, match="worker 1 of 2 lost another"), placement.scope():
            raise error
    with pytest.raises(tf.errors.InvalidArgumentError), placement.scope():
        raise tf.errors.InvalidArgumentError(None, None, "a bad image")
    with pytest.raises(KeyError), placement.scope():
        raise KeyError(message)


def test_only_the_chief_writes(tmp_path):
    def work(workers):
        with run_folder.new_shared_run(Placement(workers=workers), tmp_path / "run") as temporary:
            if temporary is not None:
                for name in run_folder.FILES:
                    (temporary / name).write_text(str(workers.index))
        return temporary

    chief, other = run_workers(work)
    assert not chief.exists()
    assert other is None
    assert {(tmp_path / "run" / name).read_text() for name in run_folder.FILES} == {"0"}
    chief, other = run_workers(work)
    assert isinstance(chief, FileExistsError)
    assert isinstance(other, TrainingError)
    assert "worker 0 of 2 cannot go on" in str(other)
    assert "holds a finished run" in str(other)


def test_run_that_is_written_is_finished_though_another_worker_is_lost(tmp_path, caplog):
    calls = []

    def exchange(content):
        calls.append(content)
        if len(calls) == 3:  # after the folder was made, and named
            raise ConnectionError("the other one is gone")
        return [content] * 2

    def write(name, find_lost):
        calls.clear()
        workers = Workers(number=2, exchange=exchange)
        placement = Placement(workers=workers, find_lost=find_lost)
        with run_folder.new_shared_run(placement, tmp_path / name) as temporary:
            for file in run_folder.FILES:
                (temporary / file).write_text("")

    with caplog.at_level("WARNING", logger="absl"):
        write("run", lambda error: ("it", str(error)))
    assert all((tmp_path / "run" / name).exists() for name in run_folder.FILES)
    assert "everything is written: the other one is gone" in caplog.text
    with pytest.raises(ConnectionError):
        write("other", lambda error: None)


def test_worker_that_does_not_see_the_chiefs_folder_is_warned(tmp_path, caplog):
    def work(workers):
        with run_folder.new_shared_run(Placement(workers=workers), tmp_path / str(workers.index)):
            raise KeyError

    with caplog.at_level("WARNING", logger="absl"):
        run_workers(work)
    (record,) = caplog.records
    assert "worker 1 does not see the chief's folder" in record.getMessage()


def test_sweep_of_several_workers_is_refused(tmp_path):
    placement = Placement(workers=Workers(number=2))
    with pytest.raises(ValueError, match="must run in one process.* Received: 2 workers"):
        sweep("file", None, tmp_path, recipe="digits_finetune", strategy=placement)


@pytest.mark.tensorflow_only
def test_pretraining_on_two_replicas_writes_its_run(tmp_path, digits_dir):
    result = pretrain(
        "digits/upstream",
        tmp_path / "run",
        data_dir=digits_dir,
        strategy="mirrored",
        progress=False,
        steps=4,
        epochs=None,
        warmup_steps=1,
        report_steps=2,
        remat=True,
    )
    assert (result.metrics["strategy"], result.metrics["num_replicas"]) == ("mirrored", 2)
    assert (tmp_path / "run" / "model.keras").exists()
    with pytest.raises(ValueError, match="multiple of the number of replicas. Received: 33 for 2"):
        pretrain(
            "digits/upstream",
            tmp_path / "odd",
            data_dir=digits_dir,
            strategy="mirrored",
            batch_size=33,
        )
