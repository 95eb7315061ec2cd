"""Filters against scikit-learn's components, up to the sign."""

import numpy as np
import pytest

from keras_vit import analysis

TOLERANCE = 1e-5
# Below this share of the variance the direction of a component is rounding noise.
MEANINGFUL = 1e-6


@pytest.mark.parametrize(("centered", "suffix"), [(True, ""), (False, "_not_centred")])
def test_components_are_those_of_scikit_learn(case, centered, suffix):
    if not case.has_filters:
        pytest.skip("the reference has no filters of hybrids")
    found = analysis.embedding_filters(case.model, centered=centered)
    expected = case.expected[f"filter_components{suffix}"]
    assert found.components.shape == expected.shape
    shown = found.explained_variance_ratio > MEANINGFUL
    assert shown.sum() >= len(shown) - 1
    flat, wanted = (x[shown].reshape(shown.sum(), -1) for x in (found.components, expected))
    signs = np.sign(np.sum(flat * wanted, axis=1, keepdims=True))
    np.testing.assert_allclose(flat * signs, wanted, atol=TOLERANCE)
    if centered:
        ratios = case.expected["filter_explained_variance_ratio"]
        np.testing.assert_allclose(found.explained_variance_ratio, ratios, atol=TOLERANCE)
        np.testing.assert_allclose(found.mean, case.expected["filter_mean"], atol=TOLERANCE)
    else:
        values = case.expected["filter_singular_values_not_centred"]
        np.testing.assert_allclose(found.singular_values, values, atol=TOLERANCE, rtol=TOLERANCE)
        assert not found.mean.any()


@pytest.mark.parametrize(
    ("family", "layer", "shape"),
    [
        ("vit", "embedding", (4, 8, 3)),
        ("hybrid", "conv_root", (7, 7, 3)),
        ("bit", "root_conv", (7, 7, 3)),
    ],
)
def test_every_family_has_filters_over_pixels(make_model, family, layer, shape):
    model, _ = make_model(family)
    found = analysis.embedding_filters(model, 5)
    assert (found.layer, found.components.shape) == (layer, (5, *shape))
    flat = found.components.reshape(5, -1)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-5)
    assert np.all(flat.max(axis=1) >= -flat.min(axis=1))


def test_other_channels_and_sixteen_bits_work(make_model):
    model, _ = make_model("vit", dtype="bfloat16", in_channels=5)
    found = analysis.embedding_filters(model, 100)
    assert found.components.shape == (24, 4, 8, 5)
    assert found.components.dtype == "float32"


def test_no_component_at_all_is_refused(make_model):
    model, _ = make_model("vit")
    with pytest.raises(ValueError, match="`num_components` must be at least 1. Received: 0"):
        analysis.embedding_filters(model, 0)
