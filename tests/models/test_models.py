"""What every model must do as a Keras model."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_vit.models import (
    BiTResNet,
    BiTResNetConfig,
    HybridVisionTransformer,
    HybridVisionTransformerConfig,
    Preprocessing,
    VisionTransformer,
    VisionTransformerConfig,
)

SMALL = {"hidden_size": 16, "mlp_dim": 32, "num_heads": 2, "depth": 2, "num_classes": 3}
VIT = VisionTransformerConfig(patch_size=4, image_size=16, **SMALL)
HYBRID = HybridVisionTransformerConfig(
    patch_size=1, image_size=32, stage_depths=(1, 2), width_factor=0.5, **SMALL
)
BIT = BiTResNetConfig(stage_depths=(1, 2), width_factor=0.5, image_size=(32, 40), num_classes=3)
FAMILIES = {"vit": (VisionTransformer, VIT), "hybrid": (HybridVisionTransformer, HYBRID)}
FAMILIES["bit"] = (BiTResNet, BIT)

# One member of each choice that the configuration offers.
VARIANTS = {
    "mean": {"class_token": False, "pooling": "mean"},
    "attention": {"class_token": False, "pooling": "attention"},
    "unpooled": {"class_token": False, "pooling": "none"},
    "token_unpooled": {"pooling": "none"},
    "sincos2d": {"position_embedding": "sincos2d"},
    "no_positions": {"position_embedding": "none"},
    "representation": {"representation_size": 5},
    "no_head": {"num_classes": 0},
    "exact_gelu": {"gelu": "exact"},
    "rectangle": {"image_size": (8, 24), "patch_size": (4, 6)},
    "regularised": {"dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth": 0.2},
}


def random_weights(model, seed=0):
    """Heads, class tokens and last norms start at zero, which would hide mistakes behind them."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        centre = 1.0 if variable.path.endswith("gamma") else 0.0
        variable.assign(rng.normal(centre, 0.2, size=variable.shape))
    return model


def images_for(model, batch=2, seed=1):
    shape = (batch, *model.config.image_size, model.config.in_channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.fixture(params=FAMILIES)
def model(request):
    model_class, config = FAMILIES[request.param]
    return random_weights(model_class(config, class_names=("ant", "bee", "cat")))


def test_a_keras_file_gives_the_same_bits_in_safe_mode(model, tmp_path):
    images = images_for(model)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(copy) is type(model)
    assert copy.config == model.config
    assert copy.preprocessing == model.preprocessing
    assert copy.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(predict(copy, images), predict(model, images))


def test_a_configuration_round_trip_gives_the_same_architecture(model):
    copy = type(model).from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert [v.path for v in copy.weights] == [v.path for v in model.weights]


def test_any_layers_output_is_had_by_name(model):
    for layer in model.layers[1:]:
        part = keras.Model(model.input, model.get_layer(layer.name).output)
        assert part.output_shape[1:] == layer.output.shape[1:]


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        ("vit", "float32"),
        ("vit", "mixed_bfloat16"),
        ("hybrid", "mixed_bfloat16"),
        ("bit", "mixed_bfloat16"),
    ],
)
def test_fit_lowers_the_loss_and_keeps_float32_logits(family, policy):
    model_class, config = FAMILIES[family]
    model = model_class(config, dtype=policy)
    images = images_for(model, batch=6)
    labels = np.array([0, 1, 2, 0, 1, 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    history = model.fit(images, labels, epochs=6, batch_size=6, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    logits = model(images)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert all(v.dtype == "float32" for v in model.weights)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_build_predict_and_survive_a_round_trip(variant, tmp_path):
    model = random_weights(VisionTransformer(dataclasses.replace(VIT, **VARIANTS[variant])))
    outputs = predict(model, images_for(model))
    assert outputs.shape[1:] == model.output_shape[1:]
    assert np.isfinite(outputs).all()
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(predict(copy, images_for(model)), outputs)


def test_unpooled_models_give_a_logit_for_each_token():
    config = dataclasses.replace(VIT, class_token=False, pooling="none")
    assert VisionTransformer(config).output_shape == (None, 16, 3)
    assert VisionTransformer(dataclasses.replace(VIT, pooling="none")).output_shape == (None, 17, 3)


def test_stochastic_depth_rises_linearly_from_zero():
    model = VisionTransformer(dataclasses.replace(VIT, depth=5, stochastic_depth=0.2))
    rates = [model.get_layer(f"encoderblock_{i}").stochastic_depth for i in range(5)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2])


def test_a_new_model_has_the_official_initial_values():
    model = HybridVisionTransformer(dataclasses.replace(HYBRID, head_bias=-10.0))
    weights = {v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights}
    assert (weights["head/kernel"] == 0).all()
    assert (weights["head/bias"] == -10).all()
    assert (weights["cls/token"] == 0).all()
    assert (weights["block1_unit1/gn3/gamma"] == 0).all()
    assert (weights["block1_unit1/gn2/gamma"] == 1).all()
    fan_in = weights["embedding/kernel"].shape[2]
    assert np.std(weights["embedding/kernel"]) == pytest.approx(fan_in**-0.5, rel=0.1)


def test_attention_weights_are_those_that_the_blocks_use():
    model = random_weights(VisionTransformer(VIT))
    images = images_for(model)
    first, last = model.attention_weights(images)
    assert first.shape == last.shape == (2, 2, 17, 17)
    np.testing.assert_allclose(last.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.attention_weights(images, blocks=[-1])[0], last)
    # By hand: the block's input, normed, attended to with these weights, gives its attention.
    block = model.get_layer("encoderblock_1")
    tokens = block.norm_1(keras.Model(model.input, block.input)(images))
    value = np.einsum("btd,dkh->bkth", tokens, block.attention.value_kernel)
    value += keras.ops.convert_to_numpy(block.attention.value_bias)[:, None]
    mixed = np.einsum("bkts,bksh->btkh", last, value)
    out = np.einsum("btkh,khd->btd", mixed, block.attention.out_kernel)
    expected = keras.ops.convert_to_numpy(block.attention(tokens))
    out += keras.ops.convert_to_numpy(block.attention.out_bias)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_attention_weights_of_a_block_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="between -2 and 1. Received: 2"):
        VisionTransformer(VIT).attention_weights(np.zeros((1, 16, 16, 3)), blocks=[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "must divide `hidden_size`"),
        ({"image_size": 18}, "does not divide"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
        ({"pooling": "max"}, "`pooling` must be one of"),
        ({"num_classes": -1}, "`num_classes` must be an integer of at least 0"),
        ({"depth": 0}, "`depth` must be an integer of at least 1"),
        ({"image_size": "16"}, "must be a positive integer or"),
        ({"representation_size": 0}, "`representation_size` must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(VIT, **changes)


def test_an_impossible_stem_is_refused():
    with pytest.raises(ValueError, match="multiple of the 32 groups. Received: 0.3"):
        dataclasses.replace(HYBRID, width_factor=0.3)
    with pytest.raises(ValueError, match="at least one stage"):
        dataclasses.replace(BIT, stage_depths=())


def test_class_names_and_preprocessing_must_fit_the_model():
    with pytest.raises(ValueError, match="name each of the 3 classes. Received: 2"):
        VisionTransformer(VIT, class_names=("a", "b"))
    with pytest.raises(ValueError, match="images of the model's size"):
        VisionTransformer(VIT, preprocessing=Preprocessing(image_size=(8, 8)))
    with pytest.raises(TypeError, match="must be a VisionTransformerConfig"):
        VisionTransformer(BIT)
