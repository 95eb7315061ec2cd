"""What an export computes, refuses and leaves on the disk."""

import base64
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data.decode import decode_image
from keras_vit.data.preprocess import evaluation_image
from keras_vit.serving import export as export_module
from keras_vit.serving.export import ExportError, latest_version, next_version

# float32: the graph fuses operations that `predict` does not.
TOLERANCE = 1e-5


def signatures(folder):
    loaded = tf.saved_model.load(str(folder))
    signatures.keep = loaded  # its functions die with the loaded object
    return loaded.signatures


def expected_logits(model, pngs):
    pixels = [evaluation_image(decode_image(png), model.preprocessing) for png in pngs]
    return model.predict(np.stack(pixels), verbose=0)


def assert_close(received, expected):
    scale = np.max(np.abs(expected))
    assert scale > 0.1
    np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * scale)


def test_serving_default_bytes_give_logits_of_predict(model, exported, pngs):
    answer = signatures(exported)["serving_default"](image_bytes=tf.constant(pngs))
    logits = expected_logits(model, pngs)
    assert_close(answer["scores"], logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    order = np.argsort(-logits, axis=-1)[:, :3]
    np.testing.assert_array_equal(answer["class_ids"], order)
    np.testing.assert_allclose(
        answer["probabilities"], np.take_along_axis(probabilities, order, axis=-1), rtol=1e-4
    )
    names = [[name.decode() for name in row] for row in answer["classes"].numpy()]
    assert names == [[model.class_names[i] for i in row] for row in order]


def test_serving_default_jpeg_gives_logits_of_predict(model, exported, images):
    jpeg = tf.io.encode_jpeg(images[0]).numpy()
    answer = signatures(exported)["serving_default"](image_bytes=tf.constant([jpeg]))
    assert_close(answer["scores"], expected_logits(model, [jpeg]))


def test_images_and_tensors_give_logits_of_predict(model, exported, images, pngs):
    functions = signatures(exported)
    logits = expected_logits(model, pngs)
    answer = functions["images"](images=tf.constant(images[2][np.newaxis]))
    assert_close(answer["scores"], logits[2:])
    tensors = tf.stack([evaluation_image(image, model.preprocessing) for image in images])
    assert_close(functions["tensors"](tensors=tensors)["logits"], logits)


def test_preprocessing_in_the_graph_is_that_of_evaluation_bit_for_bit(model, exported, pngs):
    functions = signatures(exported)
    pixels = [evaluation_image(decode_image(png), model.preprocessing) for png in pngs]
    answer = functions["serving_default"](image_bytes=tf.constant(pngs))
    logits = functions["tensors"](tensors=tf.stack(pixels))["logits"]
    np.testing.assert_array_equal(answer["scores"], logits)


def test_features_are_those_of_pre_logits(model, exported, pngs):
    pixels = np.stack([evaluation_image(decode_image(png), model.preprocessing) for png in pngs])
    expected = keras.Model(model.input, model.get_layer("pre_logits").output)(pixels)
    answer = signatures(exported)["features"](image_bytes=tf.constant(pngs))
    assert_close(answer["features"], keras.ops.convert_to_numpy(expected))


@pytest.mark.parametrize(
    "overrides",
    [
        {"name": "R+ViT-Ti/16", "depth": 1, "patch_size": 1},
        {"name": "BiT-R50x1", "stage_depths": (1, 1)},
    ],
)
def test_export_hybrid_and_bit_reproduce_predict(make_model, overrides, pngs, tmp_path):
    model = make_model(**overrides)
    answer = signatures(keras_vit.export(model, tmp_path))["serving_default"](
        image_bytes=tf.constant(pngs)
    )
    assert_close(answer["scores"], expected_logits(model, pngs))


@pytest.mark.parametrize(
    "shape", [(), (3,), (32, 32), (32, 32, 3), (1, 33, 32, 3), (1, 1, 32, 32, 3)]
)
def test_tensors_wrong_shape_is_an_error_and_no_abort(exported, shape):
    function = signatures(exported)["tensors"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        function(tensors=tf.zeros(shape))


@pytest.mark.parametrize("shape", [(), (32, 32, 3), (1, 32, 32, 4), (1, 1, 32, 32, 3)])
def test_images_wrong_shape_is_an_error_and_no_abort(exported, shape):
    function = signatures(exported)["images"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        function(images=tf.zeros(shape, tf.uint8))


def test_serving_default_wrong_rank_is_an_error(exported, pngs):
    function = signatures(exported)["serving_default"]
    for value in (pngs[0], [[pngs[0]]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible"):
            function(image_bytes=tf.constant(value))


def test_empty_batch_is_an_error(exported):
    functions = signatures(exported)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the batch is empty"):
        functions["tensors"](tensors=tf.zeros((0, 32, 32, 3)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the batch is empty"):
        functions["serving_default"](image_bytes=tf.constant([], tf.string))


def test_serving_default_bad_images_are_named_by_index(exported, pngs):
    function = signatures(exported)["serving_default"]
    message = "image 1: not a JPEG or PNG image, GIF is not decoded; image 3: .* it is empty"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        function(image_bytes=tf.constant([pngs[0], b"GIF89a", pngs[1], b""]))


def test_export_loads_in_a_process_with_tensorflow_alone(exported, pngs, model):
    program = (
        "import base64, json, sys\n"
        "sys.modules['keras'] = None  # TensorFlow imports it where it can\n"
        "import tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "images = [base64.b64decode(text) for text in sys.argv[2:]]\n"
        "answer = loaded.signatures['serving_default'](image_bytes=tf.constant(images))\n"
        "assert 'keras_vit' not in sys.modules\n"
        "print(json.dumps(answer['scores'].numpy().tolist()))\n"
    )
    arguments = [base64.b64encode(png).decode() for png in pngs[1:]]
    done = subprocess.run(
        [sys.executable, "-c", program, str(exported), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    scores = json.loads(done.stdout.splitlines()[-1])
    assert_close(np.array(scores), expected_logits(model, pngs[1:]))


@pytest.fixture
def fast_save(monkeypatch):
    """Writes a file in place of a SavedModel, and checks nothing."""

    def save(module, folder, signatures):
        (pathlib.Path(folder) / "saved_model.pb").write_bytes(b"")

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(export_module, "check", lambda *_: None)


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


def test_export_without_names_gives_ids_as_text(model, pngs, tmp_path):
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
    forward, variables = export_module.tensorflow_forward(model)

    def wrong(tensors):
        return {name: 1.001 * value for name, value in forward(tensors).items()}

    monkeypatch.setattr(export_module, "tensorflow_forward", lambda _: (wrong, variables))
    with pytest.raises(ExportError, match="does not reproduce the model"):
        keras_vit.export(model, tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_save")
def test_export_is_renamed_only_when_complete(model, tmp_path, monkeypatch):
    seen = []

    def check(folder, model):
        seen.append(pathlib.Path(folder).name)
        assert not [name for name in os.listdir(tmp_path) if name.isdigit()]
        assert (folder / "assets" / "model.json").is_file()

    monkeypatch.setattr(export_module, "check", check)
    assert keras_vit.export(model, tmp_path).name == "1"
    assert not seen[0].isdigit()


@pytest.mark.usefixtures("fast_save")
def test_export_interrupted_leaves_nothing(model, tmp_path, monkeypatch):
    def check(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "check", check)
    with pytest.raises(KeyboardInterrupt):
        keras_vit.export(model, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fast_save")
def test_export_takes_another_number_when_one_was_taken(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export_module, "check", lambda *_: (tmp_path / "1" / "x").mkdir(parents=True)
    )
    monkeypatch.setattr(export_module, "next_version", lambda _: 1)
    assert keras_vit.export(model, tmp_path).name == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ["a"]}, "must name each of the 4 classes. Received: 1"),
        ({"activation": "relu"}, "must be one of .*Received: 'relu'"),
        ({"top_k": 0}, "must be at least 1. Received: 0"),
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
