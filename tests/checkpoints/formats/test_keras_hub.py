"""Files of KerasHub: presets' folders and the weights of a classifier alone."""

import json
import pathlib
import shutil

import h5py
import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers import hdf5
from keras_vit.checkpoints.containers.files import BACKBONE_FILE, TASK_FILE, open_container
from keras_vit.errors import CheckpointError

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "keras_hub"
# Source -> the folder of what KerasHub computes with it.
SOURCES = {"preset": "preset", "weights/gap.weights.h5": "weights"}
# The bound that this project sets itself, of max|reference|, in float32.
PARITY = 1e-5


def stored(path):
    container = open_container(path / BACKBONE_FILE if path.is_dir() else path)
    return container.read([key for key in container.shapes if "optimizer" not in key])


def assert_same_arrays(path, expected):
    found = stored(path)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key


@pytest.fixture
def preset(tmp_path):
    return pathlib.Path(shutil.copytree(REFERENCE / "preset", tmp_path / "preset"))


@pytest.mark.parametrize("source", SOURCES)
def test_outputs_are_the_references_and_files_come_back(source, assert_close, tmp_path):
    model = keras_vit.from_pretrained(REFERENCE / source)
    with np.load(REFERENCE / SOURCES[source] / "ref.npz") as file:
        outputs = [model.output, model.get_layer("encoder_norm").output]
        logits, features = keras.Model(model.input, outputs)(file["images"])
        assert_close(logits, file["logits"], PARITY)
        assert_close(features, file["features"], PARITY)
    name = BACKBONE_FILE if source == "preset" else "again.weights.h5"
    path = keras_vit.save_pretrained(model, tmp_path / name)
    assert_same_arrays(path, stored(REFERENCE / source))
    again = keras_vit.from_pretrained(path)
    assert again.config == model.config
    assert again.preprocessing.image_size == model.preprocessing.image_size


def test_a_preset_is_read_as_its_json_files_say():
    model = keras_vit.from_pretrained(REFERENCE / "preset")
    config, pixels = model.config, model.preprocessing
    assert (config.image_size, config.layer_norm_epsilon, config.gelu) == ((16, 24), 1e-5, "exact")
    assert (config.representation_size, config.num_classes) == (10, 5)
    assert (pixels.resize, pixels.antialias, pixels.value_range) == ("short_side", True, (0, 1))
    np.testing.assert_allclose(pixels.mean, (0.485, 0.456, 0.406), rtol=1e-12)
    np.testing.assert_allclose(pixels.std, (0.229, 0.224, 0.225), rtol=1e-12)


def test_what_is_written_says_what_keras_hub_wrote(tmp_path):
    model = keras_vit.from_pretrained(REFERENCE / "preset")
    keras_vit.save_pretrained(model, tmp_path / BACKBONE_FILE)

    def plain(value):
        """A configuration, its numbers rounded; the data set of boxes is of no account."""
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "bounding_box_format"}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return round(value, 12) if isinstance(value, float) else value

    for name in ("config.json", "task.json", "preprocessor.json", "image_converter.json"):
        ours = json.loads((tmp_path / name).read_text())
        assert plain(ours) == plain(json.loads((REFERENCE / "preset" / name).read_text())), name


def test_a_backbone_without_a_task_is_a_model_without_a_head(preset, tmp_path):
    (preset / TASK_FILE).unlink()
    model = keras_vit.from_pretrained(preset)
    assert (model.config.num_classes, model.config.representation_size) == (0, None)
    path = keras_vit.save_pretrained(model, tmp_path / "again" / BACKBONE_FILE)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "config.json",
        "image_converter.json",
        BACKBONE_FILE,
    ]
    shutil.copy(REFERENCE / "preset" / TASK_FILE, path.parent)
    with pytest.raises(CheckpointError, match=f"the {TASK_FILE} beside it would be taken"):
        keras_vit.save_pretrained(model, path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"use_mha_bias": False}, r"no biases \(use_mha_bias\)"),
        ("config.json", {"layer_norm_epsilon": "small"}, "Received: 'small'"),
        ("task.json", {"pooling": "max"}, "'max' is not one of token, gap"),
        ("image_converter.json", {"interpolation": "nearest"}, "'nearest' is not one of"),
        ("image_converter.json", {"pad_to_aspect_ratio": True}, "no preprocessing of keras_vit"),
        ("image_converter.json", {"scale": [1.0, 2.0]}, "do not go together"),
        ("image_converter.json", {"scale": "much"}, "must be numbers"),
    ],
)
def test_a_configuration_of_another_model_is_refused(name, change, message, preset):
    config = json.loads((preset / name).read_text())
    config["config"] |= change
    (preset / name).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        keras_vit.from_pretrained(preset)


def test_another_class_beside_the_weights_is_refused(preset):
    config = json.loads((preset / "config.json").read_text())
    (preset / "config.json").write_text(json.dumps({**config, "class_name": "VGGBackbone"}))
    with pytest.raises(CheckpointError, match="of 'VGGBackbone', expected 'ViTBackbone'"):
        keras_vit.from_pretrained(preset)


def test_every_missing_extra_or_ill_shaped_array_is_named(tmp_path):
    arrays = stored(REFERENCE / "weights" / "gap.weights.h5")
    path = tmp_path / "bad.weights.h5"
    for key in arrays:
        for change in (
            lambda a, key=key: a.pop(key),
            lambda a, key=key: a.update({key: np.ones((*a[key].shape, 2), "float32")}),
        ):
            changed = dict(arrays)
            change(changed)
            with open(path, "w+b") as file:
                hdf5.write(file, changed)
            with pytest.raises(CheckpointError) as caught:
                keras_vit.from_pretrained(path)
            words = (key, "architecture", "known format", "positions", "as those of no")
            assert any(word in str(caught.value) for word in words), (key, str(caught.value))


def test_the_optimizer_of_a_compiled_model_is_left_out(tmp_path):
    path = tmp_path / "gap.weights.h5"
    shutil.copy(REFERENCE / "weights" / "gap.weights.h5", path)
    with h5py.File(path, "a") as file:
        assert "optimizer/vars/1" in file
        file["optimizer/vars/2"] = np.int64(2)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "uint32")
    assert keras_vit.from_pretrained(path).config.num_classes == 3


def test_what_keras_hub_cannot_hold_is_an_error_that_says_so(tmp_path):
    sizes = {"hidden_size": 8, "mlp_dim": 8, "num_heads": 2, "depth": 1, "image_size": 32}
    path = tmp_path / BACKBONE_FILE
    for fields, message in (
        ({}, "keras_hub cannot hold `gelu` 'tanh'"),
        ({"gelu": "exact", "position_embedding": "sincos2d"}, "`position_embedding` 'sincos2d'"),
        ({"gelu": "exact", "pooling": "attention"}, "`pooling` 'attention'"),
        (
            {"gelu": "exact", "num_classes": 0, "representation_size": 4},
            "`representation_size` 4",
        ),
    ):
        model = keras_vit.create_model("ViT-Ti/16", **{"num_classes": 2, **sizes, **fields})
        with pytest.raises(CheckpointError, match=message):
            keras_vit.save_pretrained(model, path, format="keras_hub")
    hybrid = keras_vit.create_model("R+ViT-Ti/16", num_classes=2, gelu="exact", depth=1)
    with pytest.raises(CheckpointError, match="a model of the family 'hybrid'"):
        keras_vit.save_pretrained(hybrid, path, format="keras_hub")
    assert list(tmp_path.iterdir()) == []


def test_sixteen_bit_files_come_back_in_sixteen_bits(tmp_path):
    model = keras_vit.from_pretrained(REFERENCE / "preset")
    for dtype in ("float16", "bfloat16"):
        folder = tmp_path / dtype
        path = keras_vit.save_pretrained(model, folder / BACKBONE_FILE, dtype=dtype)
        assert open_container(path).half == dtype
        half = keras_vit.from_pretrained(path)
        again = keras_vit.save_pretrained(half, folder / "again" / BACKBONE_FILE)
        assert open_container(again).half == dtype
        assert_same_arrays(again, stored(path))
