"""Distances, rollout and maps, against the authors' code and by hand."""

import numpy as np
import pytest

from keras_vit import analysis
from keras_vit.analysis.attention import patch_distances, threshold

WEIGHTS_TOLERANCE = 5e-5  # float32 softmax of sharp attention, two frameworks
DISTANCE_ABSOLUTE = 1e-3  # pixels
DISTANCE_RELATIVE = 1e-5
ROLLOUT_TOLERANCE = 1e-5
# bfloat16 has 8 bits; a distance is a mean of many weights.
BFLOAT16_RELATIVE = 0.02

FAMILIES = [
    ("vit", {}),
    ("vit", {"class_token": False, "pooling": "mean"}),
    ("vit", {"class_token": False, "pooling": "attention", "position_embedding": "sincos2d"}),
    ("vit", {"pooling": "none"}),
    ("vit", {"num_classes": 0}),
    ("hybrid", {}),
]


def test_weights_are_those_of_the_official_model(case):
    weights = np.stack(case.model.attention_weights(case.images))
    np.testing.assert_allclose(
        weights, case.expected["attention_weights"], atol=WEIGHTS_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize(
    ("renormalize", "key"),
    [(False, "attention_distance"), (True, "attention_distance_renormalised")],
)
def test_distance_is_that_of_the_authors(case, renormalize, key):
    distance = analysis.attention_distance(case.model, case.images, renormalize=renormalize)
    expected = case.expected[key]
    assert distance.shape == expected.shape
    error = np.abs(distance - expected)
    assert np.all((error <= DISTANCE_ABSOLUTE) | (error <= DISTANCE_RELATIVE * expected))
    if not renormalize:
        mean = case.expected["attention_distance_mean"]
        np.testing.assert_allclose(distance.mean(axis=1), mean, atol=DISTANCE_ABSOLUTE, rtol=0)


def test_rollout_is_that_of_attention_flow(case):
    rollout = analysis.attention_rollout(case.model, case.images, batch_size=2)
    np.testing.assert_allclose(
        rollout, case.expected["rollout_map"], atol=ROLLOUT_TOLERANCE, rtol=0
    )


def test_joint_attention_after_each_block_is_that_of_attention_flow(case):
    weights = case.model.attention_weights(case.images)
    joint = np.stack(list(analysis.joint_attention(weights)))
    np.testing.assert_allclose(joint, case.expected["rollout"], atol=ROLLOUT_TOLERANCE, rtol=0)
    *_, last = analysis.joint_attention(weights, residual=False)
    expected = case.expected["rollout_without_residual"]
    np.testing.assert_allclose(last, expected, atol=ROLLOUT_TOLERANCE, rtol=0)


def test_rollout_without_residual_reads_the_same_row(deep):
    rollout = analysis.attention_rollout(deep.model, deep.images, residual=False)
    expected = deep.expected["rollout_without_residual"][:, 0, 1:].reshape(rollout.shape)
    np.testing.assert_allclose(rollout, expected, atol=ROLLOUT_TOLERANCE, rtol=0)


def test_uniform_attention_of_the_paper_s_grid_is_116_pixels():
    distances = patch_distances((14, 14), (16, 16))
    assert distances.mean() == pytest.approx(116.5, abs=0.05)
    assert distances.sum() / 197 / 196 == pytest.approx(115.9, abs=0.05)
    assert np.all(np.diag(distances) == 0)


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_map_is_read_off_the_weights_in_any_family_and_batch(
    make_model, family, changes, batch_size
):
    model, images = make_model(family, **changes)
    grid = model.config.grid
    maps = analysis.attention_map(model, images, block=-1, batch_size=batch_size)
    weights = model.attention_weights(images, blocks=[-1])[0]
    if model.config.class_token:
        expected = weights[:, :, 0, 1:]
    else:
        expected = weights.mean(axis=2)
    np.testing.assert_allclose(maps, expected.reshape(3, 3, *grid), atol=1e-6)
    assert analysis.attention_distance(model, images, batch_size=batch_size).shape == (2, 3, 3)


def test_earlier_blocks_are_counted_from_either_end(deep):
    first = analysis.attention_map(deep.model, deep.images, block=0)
    np.testing.assert_array_equal(first, analysis.attention_map(deep.model, deep.images, block=-4))
    expected = deep.expected["attention_weights"][0][:, :, 0, 1:].reshape(first.shape)
    np.testing.assert_allclose(first, expected, atol=WEIGHTS_TOLERANCE)


def test_thresholded_attention_is_the_smallest_set_with_the_mass(deep):
    maps = analysis.attention_map(deep.model, deep.images).reshape(4, 4, 36)
    kept = analysis.thresholded_attention(deep.model, deep.images, mass=0.6).reshape(4, 4, 36)
    for values, mask in zip(maps.reshape(-1, 36), kept.reshape(-1, 36), strict=True):
        shares = values / values.sum()
        assert shares[mask].sum() >= 0.6 - 1e-6
        assert shares[mask].sum() - shares[mask].min() < 0.6 + 1e-6
        assert shares[mask].min() >= shares[~mask].max()


def test_threshold_takes_everything_at_one_and_refuses_none():
    assert threshold(np.full((2, 2, 3), 0.1), 1.0).all()
    with pytest.raises(ValueError, match=r"`mass` must be in \(0, 1\]. Received: 0"):
        threshold(np.ones((2, 2)), 0)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16", "float16"])
def test_sixteen_bit_models_give_float32_close_to_float32(make_model, dtype):
    model, images = make_model("vit")
    expected = analysis.attention_distance(model, images)
    rounded, _ = make_model("vit", dtype=dtype)
    rounded.set_weights(model.get_weights())
    distance = analysis.attention_distance(rounded, images)
    assert distance.dtype == "float32"
    np.testing.assert_allclose(distance, expected, rtol=BFLOAT16_RELATIVE)
    assert analysis.attention_rollout(rounded, images).dtype == "float32"


@pytest.mark.parametrize(
    "function",
    [
        analysis.attention_distance,
        analysis.attention_rollout,
        analysis.attention_map,
        analysis.thresholded_attention,
    ],
)
def test_a_bit_resnet_has_no_attention(make_model, function):
    model, images = make_model("bit")
    with pytest.raises(ValueError, match="needs a Vision Transformer or a hybrid.*BiTResNet"):
        function(model, images)


def test_arguments_that_make_no_sense_are_refused(deep):
    with pytest.raises(ValueError, match=r"`images` must be \(B, 48, 48, 3\).*\(4, 48, 24, 3\)"):
        analysis.attention_distance(deep.model, deep.images[:, :, :24])
    with pytest.raises(ValueError, match="`block` must be an integer between -4 and 3.*: 4"):
        analysis.attention_map(deep.model, deep.images, block=4)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1. Received: 0"):
        analysis.attention_rollout(deep.model, deep.images, batch_size=0)
