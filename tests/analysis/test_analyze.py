"""One pass gives what the functions give one by one; statistics against numpy."""

import keras
import numpy as np
import pytest

from keras_vit import analysis

TOLERANCE = 1e-5


@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_one_pass_gives_what_the_functions_give(make_model, family):
    model, images = make_model(family)
    done = []
    found = analysis.analyze(model, images, batch_size=2, progress=done.append)
    assert done == [2, 3]
    expected = {
        "outputs": np.array(model.predict_on_batch(images)),
        "attention_distance": analysis.attention_distance(model, images),
        "rollout": analysis.attention_rollout(model, images),
        "last_block": analysis.attention_map(model, images),
        "grad_cam": analysis.grad_cam(model, images),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=TOLERANCE)
    for name, value in analysis.block_features(model, images).items():
        np.testing.assert_allclose(found.features[name], value, atol=TOLERANCE)


def test_a_bit_resnet_has_what_needs_no_attention(make_model):
    model, images = make_model("bit")
    found = analysis.analyze(model, images, batch_size=2)
    np.testing.assert_allclose(found.outputs, model.predict_on_batch(images), atol=TOLERANCE)
    assert found.attention_distance is found.rollout is found.last_block is None
    assert (found.grad_cam.shape, list(found.features)) == (
        (3, 4, 6),
        ["block1_unit1", "block2_unit1"],
    )


def test_models_of_other_packages_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="needs a model of this package. Received: Sequential"):
        analysis.analyze(model, np.zeros((1, 4)))


def test_activations_are_numpy_s(make_model):
    model, images = make_model("vit")
    rows = analysis.analyze(model, images, batch_size=2).activations
    assert [row["layer"] for row in rows] == ["encoderblock_0", "encoderblock_1"]
    block = keras.Model(model.input, model.get_layer("encoderblock_1").output)
    tokens = keras.ops.convert_to_numpy(block(images))
    expected = {
        "mean": tokens.mean(),
        "std": tokens.std(),
        "token_norm": np.linalg.norm(tokens, axis=-1).mean(),
        "largest": np.abs(tokens).max(),
    }
    assert {k: v for k, v in rows[1].items() if k != "layer"} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"pooling": "none"}])
def test_models_without_logits_have_no_grad_cam(make_model, changes):
    model, images = make_model("vit", **changes)
    found = analysis.analyze(model, images)
    assert found.grad_cam is None
    assert found.rollout.shape == (3, 4, 3)


def test_weight_statistics_are_numpy_s_and_count_what_is_not_finite(make_model):
    model, _ = make_model("vit", dtype="bfloat16")
    kernel = model.get_layer("head").kernel
    values = np.array([[0.0, 1.0], [-3.0, np.inf]])
    kernel.assign(np.resize(values, kernel.shape))
    row = next(r for r in analysis.weight_statistics(model) if r["path"] == kernel.path)
    assert (row["min"], row["max"], row["zeros"]) == (-3.0, 1.0, pytest.approx(0.25, abs=0.01))
    assert row["not_finite"] == np.isinf(np.resize(values, kernel.shape)).sum()
    assert len(analysis.weight_statistics(model)) == len(model.weights)
