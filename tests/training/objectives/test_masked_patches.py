"""Masked patch prediction against targets, corruption and losses computed by other code."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.layers.masking import GatherOrMask
from keras_vit.models.preprocessing import Preprocessing
from keras_vit.training.objectives import patches
from keras_vit.training.objectives.masked_patches import (
    CommonestTarget,
    MaskedPatches,
    TargetEntropy,
)
from keras_vit.training.recipe import Recipe
from tests import tiny

PATH = pathlib.Path(__file__).parents[2] / "reference/evaluation/masked_patches/masked_patches.npz"
LOSS_TOLERANCE = 1e-6  # relative; float32 logits against float64
SHARE_TOLERANCE = 0.005


@pytest.fixture(scope="module")
def reference():
    with np.load(PATH, allow_pickle=False) as file:
        return dict(file)


def cut_of(reference, **changes):
    size = int(reference["patch"])
    height, width, channels = reference["images_uint8"].shape[1:]
    rule = Preprocessing(image_size=(height, width), **changes)
    return patches.Patches((size, size), (height // size, width // size), channels, rule)


def corrupted_of(reference, i):
    return patches.corruption(
        tf.constant(reference["order"][i]),
        tf.constant(reference["kind"][i]),
        tf.constant(reference["other"][i]),
        10,
        (0.8, 0.1, 0.1),
    )


def test_targets_are_those_of_the_reference(reference):
    images = reference["images_uint8"].astype("float32")
    imagenet = {"value_range": (0, 1), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for changes in ({}, imagenet):
        cut = cut_of(reference, **changes)
        for i, image in enumerate(images):
            pixels = image / 127.5 - 1.0
            if changes:
                pixels = (image / 255.0 - imagenet["mean"]) / imagenet["std"]
            pixels = pixels.astype("float32")
            np.testing.assert_array_equal(
                cut.mean_colors(pixels), reference["mean_colour_class"][i]
            )
            np.testing.assert_array_equal(
                cut.downsized_colors(pixels), reference["downsized_colour_classes"][i]
            )
            if not changes:
                expected = reference["regression_targets"][i]
                np.testing.assert_allclose(cut.pixels(pixels), expected, atol=1e-6)


def test_corruption_from_given_numbers_is_that_of_the_reference(reference):
    sources = np.stack([corrupted_of(reference, i)[1] for i in range(3)])
    chosen = [np.flatnonzero(reference["corrupted"][i]) for i in range(3)]
    for i in range(3):
        np.testing.assert_array_equal(corrupted_of(reference, i)[0], chosen[i])
    layer = GatherOrMask()
    embeddings = reference["embeddings"].astype("float32")
    layer.build([embeddings.shape, sources.shape])
    layer.token.assign(reference["mask_embedding"])
    received = keras.ops.convert_to_numpy(layer([embeddings, sources]))
    np.testing.assert_array_equal(received, reference["corrupted_embeddings"].astype("float32"))


@pytest.mark.parametrize(
    ("target", "outputs", "targets", "expected"),
    [
        ("mean_color", "mean_colour_logits", "mean_colour_class", "mean_colour_loss"),
        ("color_4x4", "downsized_logits", "downsized_colour_classes", "downsized_loss"),
        ("pixels", "regression_outputs", "regression_targets", "regression_loss"),
    ],
)
def test_losses_are_those_of_the_reference(reference, target, outputs, targets, expected):
    chosen = np.stack([np.flatnonzero(row) for row in reference["corrupted"]])
    rows = np.arange(3)[:, None]
    y_true, y_pred = reference[targets][rows, chosen], reference[outputs][rows, chosen]
    loss = MaskedPatches(target=target).loss()(y_true, y_pred.astype("float32"))
    assert float(loss) == pytest.approx(float(reference[expected]), rel=LOSS_TOLERANCE)


def test_half_of_each_image_is_corrupted_in_the_proportions_of_the_paper():
    # 5000 images of 49 patches: 122,500 draws, of which 24 in each image are corrupted.
    def draw(place):
        seed = tf.random.fold_in(tf.constant([1, 2], tf.int32), place)
        return patches.draw_corruption(49, seed, 24, (0.8, 0.1, 0.1))

    data = tf.data.Dataset.range(5000).map(draw, num_parallel_calls=2).batch(5000)
    corrupted, sources = next(data.as_numpy_iterator())
    own = np.arange(49)
    assert corrupted.shape == (5000, 24)
    assert (np.diff(corrupted, axis=1) > 0).all()
    of_corrupted = np.take_along_axis(sources, corrupted, 1)
    masked, kept = of_corrupted == 49, of_corrupted == corrupted
    for share, expected in ((masked, 0.8), (kept, 0.1), (~masked & ~kept, 0.1)):
        assert share.mean() == pytest.approx(expected, abs=SHARE_TOLERANCE)
    assert ((sources != own).sum(1) <= 24).all()
    counts = np.bincount(of_corrupted[~masked & ~kept], minlength=49)
    assert counts.min() > 0.7 * counts.mean()


def test_mask_gets_a_gradient_and_what_is_kept_goes_on_bit_for_bit():
    model = tiny.make_model(num_classes=3)
    objective = MaskedPatches(proportions=(1.0, 0.0, 0.0))
    trained = objective.build(model, None)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype("float32")
    pairs = [objective.targets(im, 0, tf.constant([0, i])) for i, im in enumerate(images)]
    x, y = tf.nest.map_structure(lambda *parts: np.stack(parts), *pairs)
    layer = trained.get_layer("mask_embedding")
    inner = keras.Model(trained.inputs, [model.get_layer("tokens").output, layer.output])
    embeddings, replaced = inner(x)
    embeddings, replaced = map(keras.ops.convert_to_numpy, (embeddings, replaced))
    kept = x["sources"] == np.arange(4)
    np.testing.assert_array_equal(replaced[kept], embeddings[kept])
    assert kept.sum() == 8
    token = keras.ops.convert_to_numpy(layer.token).copy()
    trained.compile("sgd", loss=objective.loss(), metrics=objective.metrics())
    logs = trained.train_on_batch(x, y, return_dict=True)
    assert np.abs(keras.ops.convert_to_numpy(layer.token) - token).max() > 0
    assert set(logs) >= {"loss", "accuracy", "commonest_target", "target_entropy"}
    assert objective.finish(trained) is model


def test_commonest_target_and_entropy_are_those_of_all_targets():
    commonest, entropy = CommonestTarget(8), TargetEntropy(8)
    for labels in ([[0, 0], [1, 2]], [[0, 1], [0, 0]]):
        for metric in (commonest, entropy):
            metric.update_state(np.array(labels), None)
    shares = np.array([5, 2, 1]) / 8
    assert float(commonest.result()) == pytest.approx(5 / 8)
    assert float(entropy.result()) == pytest.approx(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "mae", "mask_target": "pixels"}, "`mask_target` is of the objectives"),
        ({"mask_ratio": 0.5}, "`mask_ratio` is of the objectives masked_patches, mae"),
        ({"objective": "masked_patches", "mask_ratio": 1.0}, "in \\(0, 1\\)"),
        ({"objective": "masked_patches", "mask_proportions": (0.5, 0.1, 0.1)}, "sum to 1"),
        ({"objective": "masked_patches", "mask_target": "color"}, "one of"),
    ],
)
def test_recipe_refuses_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(steps=1, **fields)


def test_models_and_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`mask_ratio` must leave some"):
        MaskedPatches(ratio=0.1).build(tiny.make_model(), None)
    model = tiny.make_model(patch_size=2, image_size=8)
    with pytest.raises(ValueError, match="that 4 divides"):
        MaskedPatches(target="color_4x4").build(model, None)
    with pytest.raises(ValueError, match="cuts the image itself"):
        patches.patches_of(keras.Sequential(), "mae")
