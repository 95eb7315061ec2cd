"""What an export leaves on the disk: whole versions that were seen to work, or nothing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.errors import ExportError
from keras_vit.layers import attention
from keras_vit.serving import export as export_module
from keras_vit.serving import versions
from keras_vit.serving.options import ServingOptions
from keras_vit.serving.versions import latest_version, new_version, next_version


@pytest.fixture
def fast_save(monkeypatch):
    """Writes a file in place of a SavedModel, and checks nothing."""

    def save(module, folder, signatures):
        (pathlib.Path(folder) / "saved_model.pb").write_bytes(b"")

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(export_module, "check_saved_model", lambda *_: None)


@pytest.fixture
def unchecked(monkeypatch):
    """Leaves out the check, where a test looks at something else: it takes seconds."""
    monkeypatch.setattr(export_module, "check_saved_model", lambda *_: None)


@pytest.mark.usefixtures("fast_save")
def test_export_writes_the_next_version_and_nothing_else(model, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "8.old").mkdir()
    version = keras_vit.export(model, tmp_path)
    assert version == tmp_path / "8"
    assert sorted(os.listdir(tmp_path)) == ["7", "8", "8.old"]
    assert next_version(tmp_path) == 9
    assert latest_version(tmp_path) == version
    assert latest_version(version) == version


@pytest.mark.usefixtures("unchecked")
def test_export_twice_gives_equal_weights_and_description(model, exported, tmp_path):
    second = keras_vit.export(model, tmp_path, top_k=3)
    for name in ("assets/model.json", "variables/variables.data-00000-of-00001"):
        assert (second / name).read_bytes() == (exported / name).read_bytes()


def test_model_json_describes_the_model(model, exported):
    description = json.loads((exported / "assets" / "model.json").read_text(encoding="utf-8"))
    assert description["class_names"] == list(model.class_names)
    assert description["num_classes"] == 4
    assert description["preprocessing"]["image_size"] == [32, 32]
    assert description["config"]["hidden_size"] == model.config.hidden_size
    assert description["signatures"] == ["features", "images", "serving_default", "tensors"]
    assert description["versions"]["tensorflow"] == tf.__version__


@pytest.mark.usefixtures("unchecked")
def test_export_without_names_gives_ids_as_text(model, pngs, tmp_path, signatures):
    class_names = model.class_names
    try:
        model.class_names = None
        folder = keras_vit.export(model, tmp_path, top_k=9)
    finally:
        model.class_names = class_names
    answer = signatures(folder)["serving_default"](image_bytes=tf.constant(pngs[:1]))
    ids = answer["class_ids"].numpy()[0]
    assert len(ids) == 4
    assert [name.decode() for name in answer["classes"].numpy()[0]] == [str(i) for i in ids]


def test_export_that_differs_is_not_published(model, tmp_path, monkeypatch):
    functions, variables = export_module.tensorflow_forward(model, ServingOptions())
    wrong = {name: lambda tensors, f=f: 1.001 * f(tensors) for name, f in functions.items()}
    monkeypatch.setattr(export_module, "tensorflow_forward", lambda *_: (wrong, variables))
    with pytest.raises(ExportError, match="does not reproduce the model"):
        keras_vit.export(model, tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_save")
def test_export_is_renamed_only_when_complete(model, tmp_path, monkeypatch):
    seen = []

    def check(folder, model, options):
        seen.append(pathlib.Path(folder).name)
        assert not [name for name in os.listdir(tmp_path) if name.isdigit()]
        assert (folder / "assets" / "model.json").is_file()

    monkeypatch.setattr(export_module, "check_saved_model", check)
    assert keras_vit.export(model, tmp_path).name == "1"
    assert not seen[0].isdigit()


@pytest.mark.usefixtures("fast_save")
def test_export_interrupted_leaves_nothing(model, tmp_path, monkeypatch):
    def check(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "check_saved_model", check)
    with pytest.raises(KeyboardInterrupt):
        keras_vit.export(model, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_save")
def test_export_takes_another_number_when_one_was_taken(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export_module, "check_saved_model", lambda *_: (tmp_path / "1" / "x").mkdir(parents=True)
    )
    monkeypatch.setattr(versions, "next_version", lambda _: 1)
    assert keras_vit.export(model, tmp_path).name == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ["a"]}, "must name each of the 4 classes. Received: 1"),
        ({"activation": "relu"}, "`activation` must be one of .*Received: 'relu'"),
        ({"top_k": 0}, "`top_k` must be at least 1. Received: 0"),
        ({"max_batch_size": 0}, "`max_batch_size` must be at least 1. Received: 0"),
        ({"on_bad_image": "skip"}, "`on_bad_image` must be one of .*Received: 'skip'"),
        ({"dtype": "float16"}, "`dtype` must be one of .*Received: 'float16'"),
        ({"quantization": "int4"}, "`quantization` must be one of .*Received: 'int4'"),
        ({"batching": True}, "must go with on_bad_image='mark'.*Received: on_bad_image='error'"),
    ],
)
def test_export_bad_argument_is_an_error_that_writes_nothing(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.export(model, tmp_path / "x", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overrides", [{"num_classes": 0}, {"pooling": "none"}])
def test_export_model_without_logits_is_an_error(tmp_path, overrides):
    model = keras_vit.create_model("ViT-Ti/16", **{"image_size": 32, "depth": 1, **overrides})
    with pytest.raises(ValueError, match="one \\(B, C\\) tensor of logits"):
        keras_vit.export(model, tmp_path)


def test_export_attention_of_a_model_without_it_is_an_error(make_model, tmp_path):
    model = make_model("BiT-R50x1", stage_depths=(1,))
    with pytest.raises(ValueError, match="`attention` needs a model with encoder blocks"):
        keras_vit.export(model, tmp_path, attention=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_save")
def test_export_writes_batching_parameters_where_there_are_none(model, tmp_path):
    arguments = {"batching": True, "on_bad_image": "mark", "max_batch_size": 12}
    keras_vit.export(model, tmp_path, **arguments)
    file = tmp_path / "batching_parameters.txt"
    lines = file.read_text().splitlines()
    assert "max_batch_size { value: 12 }" in lines
    sizes = [int(line.split()[1]) for line in lines if line.startswith("allowed_batch_sizes")]
    assert sizes == [1, 2, 4, 8, 12]
    file.write_text("tuned")
    keras_vit.export(model, tmp_path, **arguments)
    assert file.read_text() == "tuned"


def test_export_that_accepts_a_bad_request_is_not_published(model, tmp_path, monkeypatch):
    class Unchecked(export_module.ServingModule):
        def _checked(self, batch, shape):
            return batch

    monkeypatch.setattr(export_module, "ServingModule", Unchecked)
    with pytest.raises(ExportError, match="'tensors' accepts 4 channels.* accepts an empty batch"):
        keras_vit.export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_warm_up_without_the_package_is_an_error(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="keras-vision-transformer\\[serve\\]"):
        keras_vit.export(model, tmp_path, warm_up=True)


@pytest.mark.usefixtures("unchecked")
def test_warm_up_requests_are_answered(model, tmp_path):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    folder = keras_vit.export(model, tmp_path, warm_up=True, max_batch_size=4)
    functions = tf.saved_model.load(str(folder)).signatures
    seen = []
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = logs.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(p)) for name, p in request.inputs.items()}
        ((_, batch),) = inputs.items()
        name = request.model_spec.signature_name
        outputs = functions[name](**inputs)
        assert {len(value) for value in outputs.values()} == {len(batch)}
        seen.append((name, len(batch)))
    assert seen == [(name, size) for name in sorted(functions) for size in (1, 2, 4)]


# Without the package's own imports, which take longer than all of the test.
_WRITER = """
import runpy, sys, types
sys.modules["keras_vit"] = types.ModuleType("keras_vit")
sys.modules["keras_vit"].__path__ = [sys.argv[3]]
new_version = runpy.run_path(sys.argv[1])["new_version"]
while True:
    with new_version(sys.argv[2]) as (folder, publish):
        (folder / "variables").mkdir()
        for name in ("variables/data", "assets.txt", "saved_model.pb"):
            (folder / name).write_bytes(b"x" * 100_000)
        publish()
"""


def _is_whole(version):
    names = ("saved_model.pb", "assets.txt", "variables/data")
    return all((version / name).stat().st_size == 100_000 for name in names)


def test_versions_are_whole_under_a_reader_and_kills(tmp_path):
    """A reader that looks all the time, and writers that are killed at any moment."""
    seen, broken, done = set(), [], threading.Event()

    def read():
        while not done.is_set():
            for name in os.listdir(tmp_path):
                if name.isdigit() and name not in seen:
                    seen.add(name)
                    if not _is_whole(tmp_path / name):
                        broken.append(name)

    reader = threading.Thread(target=read)
    reader.start()
    rng = np.random.default_rng(0)
    try:
        for _ in range(30):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _WRITER),
                    *(versions.__file__, str(tmp_path), os.path.dirname(keras_vit.__file__)),
                ]
            )
            before = next_version(tmp_path)
            deadline = time.monotonic() + 60
            while next_version(tmp_path) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        done.set()
        reader.join()
    assert broken == []
    assert len(seen) >= 30
    assert all(_is_whole(tmp_path / name) for name in os.listdir(tmp_path) if name.isdigit())


def test_new_version_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "1").mkdir()

    def fail():
        with new_version(tmp_path) as (folder, _):
            (folder / "half").write_bytes(b"x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert os.listdir(tmp_path) == ["1"]


def test_export_of_many_tokens_holds_attention_in_blocks(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "BLOCKWISE_TOKENS", 4)
    # The check compares it with the model.
    version = keras_vit.export(make_model("ViT-Ti/8", depth=1), tmp_path)
    graph = tf.saved_model.load(str(version)).signatures["tensors"].graph
    nodes = [f.node_def for f in graph.as_graph_def().library.function]
    assert any(node.op in ("While", "StatelessWhile") for node_def in nodes for node in node_def)
