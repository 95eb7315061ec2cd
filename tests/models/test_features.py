"""Feature extractors."""

import keras
import numpy as np
import pytest

from keras_vit.models import BiTResNet, HybridVisionTransformer, VisionTransformer
from tests.models.test_models import BIT, HYBRID, VIT, images_for, random_weights


def arrays(outputs):
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}


def layer_output(model, name, images):
    return keras.ops.convert_to_numpy(
        keras.Model(model.input, model.get_layer(name).output)(images)
    )


@pytest.fixture(params=["vit", "hybrid"])
def model(request):
    if request.param == "vit":
        return random_weights(VisionTransformer(VIT))
    return random_weights(HybridVisionTransformer(HYBRID))


def test_tokens_are_the_outputs_of_the_blocks_and_share_the_weights(model):
    images = images_for(model)
    extractor = model.feature_extractor(blocks=(0, -1), layout="tokens", normalize=False)
    found = arrays(extractor(images))
    assert list(found) == ["block_0", "block_1"]
    for name, tokens in found.items():
        expected = layer_output(model, name.replace("block", "encoderblock"), images)
        np.testing.assert_array_equal(tokens, expected)
    kernel = model.get_layer("embedding").kernel
    assert any(variable is kernel for variable in extractor.weights)


def test_the_final_norm_is_applied_where_it_is_asked_for(model):
    images = images_for(model)
    plain = arrays(model.feature_extractor((0, 1), normalize=False)(images))
    normed = arrays(model.feature_extractor((0, 1))(images))
    gamma, beta = (np.asarray(w) for w in model.get_layer("encoder_norm").get_weights())
    for name, x in plain.items():
        centred = x - x.mean(-1, keepdims=True)
        expected = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta
        np.testing.assert_allclose(normed[name], expected, atol=1e-4)
    np.testing.assert_array_equal(normed["block_1"], layer_output(model, "encoder_norm", images))


def test_a_grid_is_the_patches_without_the_class_token(model):
    images = images_for(model)
    tokens = arrays(model.feature_extractor(-1)(images))["block_1"]
    grid = arrays(model.feature_extractor(-1, layout="grid")(images))["block_1"]
    height, width = model.config.grid
    assert grid.shape == (2, height, width, 16)
    np.testing.assert_array_equal(grid.reshape(2, -1, 16), tokens[:, 1:])


def test_the_stages_of_a_resnet_are_its_blocks():
    model = random_weights(BiTResNet(BIT))
    images = images_for(model)
    found = arrays(model.feature_extractor((0, 1), layout="grid", normalize=False)(images))
    for name, layer in (("block_0", "block1_unit1"), ("block_1", "block2_unit2")):
        np.testing.assert_array_equal(found[name], layer_output(model, layer, images))
    normed = arrays(model.feature_extractor((-1,), layout="grid")(images))
    np.testing.assert_array_equal(normed["block_1"], layer_output(model, "relu_pre_head", images))
    with pytest.raises(ValueError, match="has no tokens. Received: layout='tokens'"):
        model.feature_extractor()
    with pytest.raises(ValueError, match="last stage alone. Received: normalize=True for stage 0"):
        model.feature_extractor((0,), layout="grid")


def test_an_extractor_is_trained_saved_and_loaded(model, tmp_path):
    images = images_for(model)
    extractor = model.feature_extractor((0, 1), layout="grid")
    extractor.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    before = model.get_layer("embedding").get_weights()[0]
    targets = {name: np.zeros(output.shape) for name, output in arrays(extractor(images)).items()}
    extractor.fit(images, targets, verbose=0)
    assert (model.get_layer("embedding").get_weights()[0] != before).any()
    extractor.save(tmp_path / "features.keras")
    copy = keras.models.load_model(tmp_path / "features.keras", safe_mode=True)
    np.testing.assert_equal(arrays(copy(images)), arrays(extractor(images)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": (2,)}, "between -2 and 1. Received: 2"),
        ({"blocks": (-3,)}, "between -2 and 1. Received: -3"),
        ({"blocks": ("1",)}, "must be integers between -2 and 1. Received: '1'"),
        ({"blocks": ()}, "at least one block"),
        ({"layout": "map"}, r"`layout` must be one of \('tokens', 'grid'\). Received: 'map'"),
    ],
)
def test_what_is_no_block_or_layout_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(VIT).feature_extractor(**arguments)
