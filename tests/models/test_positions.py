"""Table 8's designs: positions of every kind in every place, from the numbers to the files."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.errors import CheckpointError
from keras_vit.models import VisionTransformer
from keras_vit.models.cost import count_parameters
from keras_vit.models.families import variable_shapes
from tests.conftest import REFERENCE
from tests.models.test_models import VIT, images_for, predict, random_weights

# The attention of the reference is sharp on purpose.
WHERE_TOLERANCE = 5e-5

WHERE = {
    "none": ("none", "stem"),
    "stem": ("learned", "stem"),
    "every_layer": ("learned", "every_layer"),
    "every_layer_shared": ("learned", "every_layer_shared"),
    "two_d_stem": ("learned2d", "stem"),
    "two_d_every_layer_shared": ("learned2d", "every_layer_shared"),
}
DESIGNS = {
    **{name: where for name, where in WHERE.items() if name != "stem"},
    "two_d_every_layer": ("learned2d", "every_layer"),
    "sincos_every_layer_shared": ("sincos2d", "every_layer_shared"),
    "relative": ("relative", "stem"),
    "relative_per_head": ("relative_per_head", "stem"),
}


def _fields(design):
    return dict(zip(("position_embedding", "position_location"), design, strict=True))


@pytest.fixture(scope="module")
def official():
    with np.load(REFERENCE / "evaluation/positions/where.npz") as file:
        data = {key: file[key] for key in file.files}
    with np.load(REFERENCE / "attention/deep.ref.npz") as file:
        images = file["images"]
    return keras_vit.from_pretrained(REFERENCE / "attention/deep.npz"), images, data


@pytest.mark.parametrize("name", WHERE)
def test_positions_in_every_place_are_the_reference(name, official, assert_close):
    plain, images, data = official
    kind, location = WHERE[name]
    model = VisionTransformer(
        dataclasses.replace(plain.config, position_embedding=kind, position_location=location)
    )
    known = {v.path: v for v in plain.weights}
    known |= {
        "posembed_input/x_embedding": data["x_embedding"],
        "posembed_input/y_embedding": data["y_embedding"],
        "posembed_input/leading_embedding": data["two_d_class_token"][0],
    }
    if location == "every_layer":
        for i, positions in enumerate(data["positions_each_layer"]):
            known[f"posembed_{i or 'input'}/embedding"] = positions
    for variable in model.weights:
        variable.assign(known[variable.path])
    encoded = model.feature_extractor(blocks=(-1,))(images)
    assert_close(encoded["block_3"], data[f"{name}/encoded"], WHERE_TOLERANCE)
    assert_close(model(images), data[f"{name}/logits"], WHERE_TOLERANCE)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_is_counted_saved_resized_or_refused(name, tmp_path):
    config = dataclasses.replace(VIT, **_fields(DESIGNS[name]))
    model = random_weights(VisionTransformer(config))
    assert count_parameters(config) == model.count_params()
    assert variable_shapes(config) == {v.path: tuple(v.shape) for v in model.weights}
    images = images_for(model)
    model.save(tmp_path / "model.keras")
    copy = keras_vit.from_pretrained(tmp_path / "model.keras")
    assert copy.config == config
    np.testing.assert_array_equal(predict(copy, images), predict(model, images))
    weights = model.attention_weights(images)
    assert [w.shape for w in weights] == [(2, 2, 17, 17)] * 2
    np.testing.assert_allclose(weights[1].sum(axis=-1), 1, atol=1e-6)
    with pytest.raises(CheckpointError, match="vit_jax cannot hold `position_"):
        keras_vit.save_pretrained(model, tmp_path / "model.npz", format="vit_jax")
    if config.position_embedding.startswith("relative"):
        with pytest.raises(ValueError, match="no rule for relative positions at another size"):
            keras_vit.from_pretrained(tmp_path / "model.keras", image_size=(16, 24))
        return
    resized = keras_vit.from_pretrained(tmp_path / "model.keras", image_size=(16, 24))
    assert np.isfinite(predict(resized, images_for(resized))).all()


def test_2d_tables_are_interpolated_along_their_axis(tmp_path):
    config = dataclasses.replace(VIT, **_fields(("learned2d", "every_layer")))
    model = random_weights(VisionTransformer(config))
    model.save(tmp_path / "model.keras")
    resized = keras_vit.from_pretrained(tmp_path / "model.keras", image_size=(16, 28))
    for name in ("posembed_input", "posembed_1"):
        old, new = (m.get_layer(name) for m in (model, resized))
        np.testing.assert_array_equal(new.y_embedding, old.y_embedding)
        np.testing.assert_array_equal(new.leading_embedding, old.leading_embedding)
        # From 4 to 7 samples with aligned corners: every second one is an old one.
        x = keras.ops.convert_to_numpy(old.x_embedding)
        np.testing.assert_allclose(new.x_embedding[::2], x, rtol=1e-6)
        np.testing.assert_allclose(new.x_embedding[1::2], (x[1:] + x[:-1]) / 2, rtol=1e-5)


def test_the_analyses_follow_positions_that_are_added_in_every_layer():
    config = dataclasses.replace(VIT, **_fields(("learned2d", "every_layer_shared")))
    model = random_weights(VisionTransformer(config))
    images = images_for(model)
    whole = keras_vit.analysis.joint_attention(model.attention_weights(images))
    rollout = keras_vit.analysis.attention_rollout(model, images)
    expected = list(whole)[-1][:, 0, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(rollout, expected, rtol=1e-5)
    assert keras_vit.analysis.position_similarity(model).shape == (4, 4, 4, 4)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (_fields(("none", "every_layer")), "positions that are added to the tokens"),
        (_fields(("relative", "every_layer_shared")), "in every layer by themselves"),
        (_fields(("sincos2d", "every_layer")), "give 'every_layer_shared'"),
        (_fields(("learned", "head")), "`position_location` must be one of"),
        ({"num_registers": 2, **_fields(("learned", "every_layer"))}, "some of their own"),
        ({"hidden_size": 15, "num_heads": 3, **_fields(("learned2d", "stem"))}, "an even"),
    ],
)
def test_positions_that_do_not_fit_are_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        dataclasses.replace(VIT, **changes)
