"""LayerScale: a feature of the blocks from the configuration to the files that can hold it."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.checkpoints.containers.files import open_container
from keras_vit.errors import CheckpointError
from keras_vit.models import VisionTransformer
from keras_vit.models.cost import count_parameters
from keras_vit.models.families import variable_shapes
from tests.models.test_models import VIT, images_for, predict, random_weights

SCALED = dataclasses.replace(VIT, layer_scale=0.1)
# A scale before a sum or folded into the kernel before it.
FOLDED_ATOL = 2e-6


def test_the_scales_start_at_their_value():
    model = VisionTransformer(SCALED)
    scales = [v for v in model.weights if v.path.endswith("/gamma") and "layer_scale" in v.path]
    assert [v.path for v in scales[:2]] == [
        "encoderblock_0/layer_scale_1/gamma",
        "encoderblock_0/layer_scale_2/gamma",
    ]
    for scale in scales:
        np.testing.assert_array_equal(scale, np.full(16, 0.1, "float32"))
    assert len(scales) == 2 * VIT.depth
    assert count_parameters(SCALED) == model.count_params()
    assert variable_shapes(SCALED) == {v.path: tuple(v.shape) for v in model.weights}


def test_scales_are_what_multiplies_the_last_kernel_of_each_branch():
    model = random_weights(VisionTransformer(SCALED))
    arrays = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    plain = VisionTransformer(VIT)
    for variable in plain.weights:
        block, _, part = variable.path.partition("/")
        scale = {
            "attention/out_kernel": "layer_scale_1",
            "attention/out_bias": "layer_scale_1",
            "mlp/dense_2/kernel": "layer_scale_2",
            "mlp/dense_2/bias": "layer_scale_2",
        }.get(part)
        factor = arrays[f"{block}/{scale}/gamma"] if scale else 1.0
        variable.assign(arrays[variable.path] * factor)
    images = images_for(model)
    expected = predict(plain, images)
    np.testing.assert_allclose(
        predict(model, images), expected, atol=FOLDED_ATOL * np.abs(expected).max()
    )


def test_timm_files_and_keras_files_hold_the_scales(tmp_path):
    model = random_weights(VisionTransformer(SCALED))
    images = images_for(model)
    path = keras_vit.save_pretrained(model, tmp_path / "model.safetensors", format="timm")
    shapes = open_container(path).shapes
    assert shapes["blocks.1.ls2.gamma"] == (16,)
    loaded = keras_vit.from_pretrained(path)
    assert loaded.config.layer_scale == 0.1
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))
    model.save(tmp_path / "model.keras")
    loaded = keras_vit.from_pretrained(tmp_path / "model.keras")
    assert loaded.config == SCALED
    np.testing.assert_array_equal(predict(loaded, images), predict(model, images))


@pytest.mark.parametrize("name", ["vit_jax", "big_vision", "huggingface", "keras_hub"])
def test_a_format_without_scales_says_so(name, tmp_path):
    model = VisionTransformer(SCALED)
    with pytest.raises(CheckpointError, match=f"{name} cannot hold `layer_scale` 0.1"):
        keras_vit.save_pretrained(model, tmp_path / "model.npz", format=name)


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="`layer_scale` must be a finite number. Received: 'x'"):
        dataclasses.replace(VIT, layer_scale="x")
