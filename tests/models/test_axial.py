"""Axial-ViT and AxialResNet (D.6): sizes, costs, files, analyses and what they refuse."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.errors import CheckpointError
from keras_vit.models import AxialResNet, AxialResNetConfig, VisionTransformer
from keras_vit.models.cost import count_multiply_adds, count_parameters, pretraining_exaflops
from keras_vit.models.families import variable_shapes
from keras_vit.models.presets import AXIAL, get_preset
from tests.models.test_models import VIT, images_for, predict, random_weights

AXIAL_VIT = dataclasses.replace(VIT, image_size=(16, 24), **AXIAL)
AXIAL_RESNET = AxialResNetConfig(
    stage_depths=(1, 2), width_factor=0.5, num_heads=4, image_size=(32, 40), num_classes=3
)
MODELS = {
    "axial_vit": (VisionTransformer, AXIAL_VIT),
    "axial_resnet": (AxialResNet, AXIAL_RESNET),
}


def test_costs_of_the_named_models():
    config = get_preset("Axial-ViT-B/16")
    # The encoder has the blocks of B twice, 85.1M -> 170.1M, and one last norm.
    block = 4 * 768 * 769 + 768 * 3072 * 2 + 3072 + 768 + 4 * 768
    embedding = 16 * 16 * 3 * 768 + 768 + (14 + 14) * 384
    assert count_parameters(config) == 24 * block + 2 * 768 + embedding + 769 * 1000
    assert round((24 * block + 2 * 768) / 1e6, 1) == 170.1
    assert count_multiply_adds(config) / 1e9 == pytest.approx(33.51, abs=0.01)
    exaflops = pretraining_exaflops(count_multiply_adds(config), 303e6, 7)
    assert exaflops == pytest.approx(427, abs=1)
    small = get_preset("Axial-ViT-B/32")
    assert count_multiply_adds(small) / 1e9 == pytest.approx(8.45, abs=0.01)
    resnet = get_preset("AxialResNet50")
    shapes = variable_shapes(resnet)
    assert count_parameters(resnet) == sum(int(np.prod(shape)) for shape in shapes.values())
    # Attention costs less than the 3x3 convolutions that it replaces.
    plain = get_preset("BiT-R50x1")
    assert count_parameters(resnet) < count_parameters(plain)
    assert count_multiply_adds(resnet) < count_multiply_adds(plain)


@pytest.mark.parametrize("name", MODELS)
def test_counts_and_keras_files(name, tmp_path):
    model_class, config = MODELS[name]
    model = random_weights(model_class(config))
    assert count_parameters(config) == model.count_params()
    images = images_for(model)
    assert not np.array_equal(*predict(model, images))
    model.save(tmp_path / "model.keras")
    copy = keras_vit.from_pretrained(tmp_path / "model.keras")
    assert copy.config == config
    np.testing.assert_array_equal(predict(copy, images), predict(model, images))
    with pytest.raises(CheckpointError, match="cannot hold|no format"):
        keras_vit.save_pretrained(model, tmp_path / "model.npz")


def test_multiply_adds_of_an_axial_resnet_by_hand():
    # One unit on a map of 8 x 10 with 32 channels in, 32 in the middle, 4 heads.
    config = dataclasses.replace(AXIAL_RESNET, stage_depths=(1,))
    outer = 80 * (32 * 32 + 32 * 128 + 32 * 128)
    attention = sum(80 * (2 * 32 * 32 + n * (3 * 16 + 2 * 32)) for n in (8, 10))
    root = 16 * 20 * 49 * 3 * 32
    assert count_multiply_adds(config) == root + outer + attention + 128 * 3


def test_sizes_follow_the_tables_or_are_refused(tmp_path):
    random_weights(VisionTransformer(AXIAL_VIT)).save(tmp_path / "vit.keras")
    resized = keras_vit.from_pretrained(tmp_path / "vit.keras", image_size=(32, 24))
    assert resized.get_layer("posembed_input").y_embedding.shape == (8, 8)
    assert np.isfinite(predict(resized, images_for(resized))).all()
    AxialResNet(AXIAL_RESNET).save(tmp_path / "resnet.keras")
    with pytest.raises(ValueError, match="no rule for relative positions at another size"):
        keras_vit.from_pretrained(tmp_path / "resnet.keras", image_size=64)


def test_features_and_analyses_of_an_axial_vit():
    model = random_weights(VisionTransformer(AXIAL_VIT))
    images = images_for(model)
    features = model.feature_extractor(blocks=(0, -1), layout="grid")(images)
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        "block_0": (2, 4, 6, 16),
        "block_1": (2, 4, 6, 16),
    }
    found = keras_vit.analysis.analyze(model, images)
    assert found.attention_distance is None
    assert found.grad_cam.shape == (2, 4, 6)
    np.testing.assert_allclose(found.outputs, predict(model, images), atol=1e-5)
    assert keras_vit.analysis.position_similarity(model).shape == (4, 6, 4, 6)
    for measure in (keras_vit.analysis.attention_rollout, keras_vit.analysis.attention_distance):
        with pytest.raises(ValueError, match="a model with axial attention"):
            measure(model, images)
    with pytest.raises(ValueError, match="model with axial attention, which has none"):
        model.attention_weights(images)
    assert model.get_layer("encoderblock_1").remat
    model.set_remat(False)
    assert not model.get_layer("encoderblock_1").remat


def test_features_and_analyses_of_an_axial_resnet():
    model = random_weights(AxialResNet(AXIAL_RESNET))
    images = images_for(model)
    features = model.feature_extractor(layout="grid")(images)
    assert tuple(features["block_1"].shape) == (2, 4, 5, 256)
    pooled = keras.ops.mean(features["block_1"], axis=(1, 2))
    expected = keras.Model(model.input, model.get_layer("pre_logits").output)(images)
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)
    found = keras_vit.analysis.analyze(model, images)
    assert found.grad_cam.shape == (2, 4, 5)
    with pytest.raises(ValueError, match="needs a Vision Transformer"):
        keras_vit.analysis.attention_rollout(model, images)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"class_token": True}, "no token but the patches"),
        ({"pooling": "token"}, "no token but the patches"),
        ({"position_embedding": "relative"}, "positions that are added"),
    ],
)
def test_what_axial_attention_lacks_is_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        dataclasses.replace(AXIAL_VIT, **changes)
    with pytest.raises(ValueError, match="must divide the root channels"):
        dataclasses.replace(AXIAL_RESNET, num_heads=5)
