"""An error blames the argument that is wrong, and not the file."""

import pytest

import keras_vit
from keras_vit.errors import CheckpointError

SMALL = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_heads": 2, "depth": 1}


@pytest.fixture(scope="module", name="file")
def file_fixture(tmp_path_factory):
    model = keras_vit.create_model("ViT-Ti/16", num_classes=2, **SMALL)
    return keras_vit.save_pretrained(model, tmp_path_factory.mktemp("model") / "m.npz")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_classes": -1}, ValueError, "`num_classes` must be an integer of at least 0"),
        ({"num_classes": "10"}, ValueError, "`num_classes` must be an integer of at least 0"),
        ({"num_classes": 2.5}, ValueError, "`num_classes` must be an integer of at least 0"),
        ({"image_size": 9}, ValueError, r"does not divide \(9, 9\)"),
        ({"layer_norm_epsilon": -1}, ValueError, r"must be a number in \[0, 1\). Received: -1"),
        ({"class_names": "ab"}, TypeError, "`class_names` must be a list of names"),
    ],
)
def test_a_wrong_argument_is_no_fault_of_the_file(file, arguments, error, match):
    with pytest.raises(error, match=match) as caught:
        keras_vit.from_pretrained(file, **arguments)
    assert not isinstance(caught.value, CheckpointError)


def test_what_is_no_source_is_a_type_error(file):
    for source in (None, b"x", 3):
        with pytest.raises(TypeError, match="`source` must be a name, an address or a path"):
            keras_vit.from_pretrained(source)
    with pytest.raises(ValueError, match="`source` must"):
        keras_vit.from_pretrained("")
    with pytest.raises(TypeError, match="a model's name must be text. Received: NoneType"):
        keras_vit.create_model(None)


def test_evaluate_and_predict_name_their_argument(file, tmp_path):
    model = keras_vit.from_pretrained(file)
    with pytest.raises(TypeError, match="`dataset` must be a name, a path"):
        keras_vit.evaluate(model, None)
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: str"):
        keras_vit.evaluate("m.npz", tmp_path)
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model, .*Received: str"):
        keras_vit.predict("m.npz", [tmp_path])
    for field in ("batch_size", "top_k", "max_pixels"):
        with pytest.raises(ValueError, match=f"`{field}` must be"):
            keras_vit.predict(model, [tmp_path], **{field: 0})
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: str"):
        keras_vit.export("m.npz", tmp_path / "e")
    with pytest.raises(ValueError, match="`max_pixels` must be at most 4294836225"):
        keras_vit.export(model, tmp_path / "e", max_pixels=2**40)
    answers = list(keras_vit.predict(model, str(tmp_path / "none.jpg")))
    assert [answer.error for answer in answers] == ["no such file or folder"]
