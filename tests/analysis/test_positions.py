"""Similarity of position embeddings, against numpy's and for every kind of positions."""

import numpy as np
import pytest

from keras_vit import analysis

TOLERANCE = 1e-5


def test_similarity_is_the_reference_s(case):
    similarity = analysis.position_similarity(case.model)
    np.testing.assert_allclose(similarity, case.expected["position_similarity"], atol=TOLERANCE)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_sine_cosine_positions_are_most_like_themselves(make_model, class_token, dtype):
    model, _ = make_model(
        "vit", position_embedding="sincos2d", class_token=class_token, pooling="mean", dtype=dtype
    )
    similarity = analysis.position_similarity(model)
    assert similarity.shape == (4, 3, 4, 3)
    flat = similarity.reshape(12, 12)
    np.testing.assert_allclose(np.diag(flat), 1, rtol=1e-5)
    np.testing.assert_allclose(flat, flat.T)
    assert similarity[0, 0, 0, 1] > similarity[0, 0, 0, 2]


def test_models_without_positions_are_refused(make_model):
    model, _ = make_model("vit", position_embedding="none")
    with pytest.raises(ValueError, match="must add position embeddings.*'none'"):
        analysis.position_similarity(model)
    model, _ = make_model("bit")
    with pytest.raises(ValueError, match="position similarity needs a Vision Transformer"):
        analysis.position_similarity(model)
