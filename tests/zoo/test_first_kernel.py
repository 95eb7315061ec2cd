"""`in_channels` and `patch_size` of `from_pretrained`: the first kernel for other images."""

import pathlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.patches import adapt_channels, bilinear_matrix, resize_patches

# big_vision's pseudo-inverse resize, on TensorFlow's float32 resize.
REFERENCE = pathlib.Path(__file__).parents[1] / "reference/flexivit/resize.npz"
REFERENCE_ATOL = 1e-5
# Three products summed in the kernel or in the model.
SUM_ATOL = 1e-5


def model_of(name="ViT-Ti/16", **changes):
    sizes = {"patch_size": 4, "image_size": 16, "hidden_size": 16, "mlp_dim": 24, "num_heads": 2}
    if name.startswith("BiT"):
        sizes = {"stage_depths": (1,), "width_factor": 0.5, "image_size": 16}
    if "+" in name:
        sizes |= {"stage_depths": (1,), "width_factor": 0.5, "patch_size": 1}
    if not name.startswith("BiT"):
        sizes["depth"] = 1
    model = keras_vit.create_model(name, **{"num_classes": 3, **sizes, **changes})
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, v.shape).astype("float32") for v in model.weights])
    return model


@pytest.fixture(params=["model.npz", "model.keras"])
def file(request, tmp_path):
    model, path = model_of(), tmp_path / request.param
    if path.suffix == ".keras":
        model.save(path)
    else:
        keras_vit.save_pretrained(model, path)
    return model, path


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def test_patches_are_resized_as_flexivit_resizes_them():
    with np.load(REFERENCE) as arrays:
        kernel = arrays["kernel"]
        names = [name for name in arrays.files if name.startswith("kernel_")]
        assert len(names) == 6
        for name in names:
            size = tuple(map(int, name.removeprefix("kernel_").split("x")))
            np.testing.assert_allclose(
                resize_patches(kernel, size), arrays[name], atol=REFERENCE_ATOL, err_msg=name
            )
    assert resize_patches(kernel, (8, 8)) is kernel


def test_an_enlarged_patch_gives_what_the_patch_gave():
    rng = np.random.default_rng(0)
    kernel, patch = rng.normal(size=(4, 4, 3, 5)), rng.normal(size=(4, 4, 3))
    matrix = bilinear_matrix(4, 7)
    large = np.einsum("ap,bq,pqc->abc", matrix, matrix, patch)
    expected = np.einsum("pqc,pqcd->d", patch, kernel)
    found = np.einsum("pqc,pqcd->d", large, resize_patches(kernel, (7, 7)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_channels_are_adapted_as_timm_adapts_them():
    kernel = np.arange(2 * 3 * 2, dtype="float32").reshape(2, 1, 3, 2)
    five = adapt_channels(kernel, 5)
    np.testing.assert_allclose(five, kernel[:, :, [0, 1, 2, 0, 1]] * 0.6, rtol=1e-6)
    np.testing.assert_array_equal(adapt_channels(kernel, 1), kernel.sum(2, keepdims=True))
    np.testing.assert_allclose(adapt_channels(kernel, 2), kernel[:, :, :2] * 1.5, rtol=1e-6)


def test_a_grey_image_gives_what_its_repetition_gave(file):
    model, path = file
    grey_model = keras_vit.from_pretrained(path, in_channels=1)
    assert grey_model.input_shape == (None, 16, 16, 1)
    assert grey_model.preprocessing.channels == 1
    grey = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 1)).astype("float32")
    expected = logits(model, np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(logits(grey_model, grey), expected, atol=SUM_ATOL)


def test_more_bands_repeat_the_colours(file):
    model, path = file
    six = keras_vit.from_pretrained(path, in_channels=6)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    expected = logits(model, images)
    np.testing.assert_allclose(
        logits(six, np.concatenate([images, images], -1)), expected, atol=SUM_ATOL
    )
    assert keras_vit.from_pretrained(path, in_channels=10, num_classes=2).config.in_channels == 10


def test_patches_of_another_size_have_the_resized_kernel_and_positions(file):
    model, path = file
    small = keras_vit.from_pretrained(path, patch_size=2)
    assert small.config.grid == (8, 8)
    kernel = model.get_layer("embedding").get_weights()[0]
    np.testing.assert_array_equal(
        small.get_layer("embedding").get_weights()[0], resize_patches(kernel, (2, 2))
    )
    large = keras_vit.from_pretrained(path, patch_size=8, image_size=32)
    np.testing.assert_array_equal(  # the same grid
        large.get_layer("posembed_input").get_weights()[0],
        model.get_layer("posembed_input").get_weights()[0],
    )
    large.save(path.parent / "large.keras")
    assert keras_vit.from_pretrained(path.parent / "large.keras").config == large.config


@pytest.mark.parametrize("name", ["R50+ViT-B/16", "BiT-R50x1"])
@pytest.mark.parametrize("asked", [{"in_channels": 1}, {"patch_size": 2}])
def test_standardised_kernels_are_not_changed(name, asked, tmp_path):
    path = keras_vit.save_pretrained(model_of(name), tmp_path / "model.npz")
    with pytest.raises(ValueError, match="can be chosen for Vision Transformers.*Received"):
        keras_vit.from_pretrained(path, **asked)


def test_what_does_not_fit_is_the_arguments_fault(file):
    _, path = file
    for asked, message in (
        ({"patch_size": 3}, "`patch_size` .3, 3. does not divide"),
        ({"patch_size": 0}, "`patch_size` must be a positive integer"),
        ({"in_channels": 0}, "`in_channels` must be an integer of at least 1"),
        ({"image_size": 18}, "does not divide"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_vit.from_pretrained(path, **asked)


def test_a_file_of_other_bands_is_not_adapted(tmp_path):
    path = tmp_path / "model.keras"
    model_of(in_channels=4).save(path)
    assert keras_vit.from_pretrained(path, in_channels=4).config.in_channels == 4
    with pytest.raises(ValueError, match="files of RGB models. Received: 1 for a file of 4"):
        keras_vit.from_pretrained(path, in_channels=1)
