"""Grad-CAM against its definition by finite differences, in every family."""

import numpy as np
import pytest

from keras_vit import analysis
from keras_vit.analysis.blocks import Walk

# Central differences in float32 with a step of 1e-2.
DIFFERENCE_TOLERANCE = 0.02


def test_weights_are_the_mean_gradient_of_the_logit(make_model):
    model, images = make_model("vit", hidden_size=6, num_heads=2)
    walk = Walk(model)
    *_, step = walk.steps(images[:1])
    tokens, tail, step_size = np.array(step.tokens), walk.tail_from(1), 1e-2
    weights = np.zeros(6)
    for feature in range(6):
        moved = [tokens.copy(), tokens.copy()]
        for sign, copy in zip((1, -1), moved, strict=True):
            copy[:, 1:, feature] += sign * step_size
        up, down = (np.array(tail(copy, training=False))[0, 2] for copy in moved)
        # Moving all patches at once adds up their gradients.
        weights[feature] = (up - down) / (2 * step_size) / 12
    expected = np.maximum(tokens[0, 1:] @ weights, 0).reshape(4, 3)
    found = analysis.grad_cam(model, images[:1], classes=2)[0]
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=DIFFERENCE_TOLERANCE * expected.max())


@pytest.mark.parametrize(
    ("family", "changes", "shape"),
    [
        ("vit", {}, (4, 3)),
        ("vit", {"class_token": False, "pooling": "attention"}, (4, 3)),
        ("vit", {"dtype": "mixed_bfloat16"}, (4, 3)),
        ("hybrid", {}, (4, 6)),
        ("bit", {}, (4, 6)),
    ],
)
def test_every_family_has_a_map_for_each_image(make_model, family, changes, shape):
    model, images = make_model(family, **changes)
    found = analysis.grad_cam(model, images, batch_size=2)
    assert (found.shape, found.dtype) == ((3, *shape), "float32")
    assert found.min() >= 0
    best = np.array(model.predict_on_batch(images)).argmax(axis=-1)
    again = analysis.grad_cam(model, images, best)
    np.testing.assert_allclose(found, again, atol=1e-3 * max(found.max(), 1e-3))


def test_models_and_classes_that_make_no_sense_are_refused(make_model):
    model, images = make_model("vit", num_classes=0)
    with pytest.raises(ValueError, match="needs a model with a head.*num_classes=0"):
        analysis.grad_cam(model, images)
    model, images = make_model("vit", pooling="none")
    with pytest.raises(ValueError, match="pooling='none'"):
        analysis.grad_cam(model, images)
    model, images = make_model("bit")
    with pytest.raises(ValueError, match="`classes` must be between 0 and 4"):
        analysis.grad_cam(model, images, classes=5)
    with pytest.raises(ValueError, match="`block` must be -1 for a BiT-ResNet"):
        analysis.grad_cam(model, images, block=0)
