"""Every kind of file that libraries write: as a `.keras` file, a SavedModel, features and maps."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import analysis
from keras_vit.checkpoints.containers import safetensors
from keras_vit.checkpoints.containers.arrays import read_stored
from keras_vit.checkpoints.containers.files import write_safetensors

TORCH = pathlib.Path(__file__).parents[1] / "reference" / "torch"
KINDS = {
    "vit": "hf_named/vit_raw_names",
    "mae": None,
    "deit_distilled": "hf_named/deit_distilled",
    "deit_distilled_timm": "timm_named/deit_tiny_distilled_patch16_224",
    "deit3": "timm_named/deit3_small_patch16_224",
    "dinov2": "hf_named/dinov2",
    "dinov2_registers": "hf_named/dinov2_registers",
    "dinov2_registers_timm": "timm_named/vit_small_patch14_reg4_dinov2",
    "dinov2_swiglu": "timm_named/vit_giant_patch14_reg4_dinov2",
    "siglip": "hf_named/siglip_vision",
    "siglip_timm": "timm_named/vit_base_patch16_siglip_224",
    "clip": "hf_named/clip_vision",
    "clip_projection": "hf_named/clip_vision_projection",
    "clip_quickgelu_timm": "timm_named/vit_base_patch32_clip_quickgelu_224",
    "mean_of_patches": "timm_named/vit_medium_patch16_reg4_gap_256",
    "mean_of_all": "timm_named/vit_base_patch16_gap_224",
    "no_last_norm": "timm_named/vit_intern300m_patch14_448",
    "query_key_norm": None,
}
# Kinds without a file among the references: their fields, and the format that they are written in.
MADE = {
    "mae": ({"num_classes": 0, "layer_norm_epsilon": 1e-12}, "huggingface"),
    "query_key_norm": ({"num_classes": 5, "qk_norm": True, "qkv_bias": False}, "timm"),
}
ROUNDING = 1e-6  # other fusions of the same operations
SIZES = {"image_size": 16, "patch_size": 4, "hidden_size": 48, "mlp_dim": 32, "num_heads": 4}


def folder_of(kind, tmp_path):
    """A folder with the file of a kind."""
    if KINDS[kind] is not None:
        return TORCH / KINDS[kind]
    fields, name = MADE[kind]
    model = keras_vit.create_model("ViT-Ti/16", **SIZES, depth=2, gelu="exact", **fields)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    path = keras_vit.save_pretrained(model, tmp_path / kind, format=name)
    if kind == "mae":  # as transformers writes its `ViTMAEForPreTraining`
        arrays = stored(path)
        more = {"decoder.mask_token": (1, 1, 8), "decoder.decoder_embed.weight": (8, 48)}
        arrays |= {key: np.ones(shape, "float32") for key, shape in more.items()}
        write_safetensors(path, arrays)
        config = path.parent / "config.json"
        facts = {**json.loads(config.read_text()), "model_type": "vit_mae"}
        config.write_text(json.dumps({**facts, "architectures": ["ViTMAEForPreTraining"]}))
    return path.parent


def stored(path):
    return read_stored(path, safetensors.read_headers(path))


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    return folder_of(request.param, tmp_path)


def images_for(model):
    shape = (3, *model.config.image_size, model.config.in_channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def with_head(folder):
    """The model of a folder, with a head of random weights where its file has none."""
    model = keras_vit.from_pretrained(folder)
    if model.config.num_classes:
        return model
    model = keras_vit.from_pretrained(folder, num_classes=4)
    kernel = model.get_layer("head").kernel
    kernel.assign(np.random.default_rng(2).normal(size=kernel.shape))
    return model


def test_the_keras_file_of_every_kind_is_bit_equal(folder, tmp_path):
    model = keras_vit.from_pretrained(folder)
    model.save(tmp_path / "model.keras")
    images = images_for(model)
    expected = model.predict_on_batch(images)
    assert np.all(np.isfinite(expected))
    assert np.ptp(expected) > 0
    for load in (keras.models.load_model, keras_vit.from_pretrained):
        again = load(tmp_path / "model.keras")
        assert again.config == model.config
        np.testing.assert_array_equal(again.predict_on_batch(images), expected)


@pytest.mark.tensorflow_only
def test_the_saved_model_of_every_kind_is_bit_equal(folder, tmp_path, monkeypatch, assert_close):
    import tensorflow as tf

    from keras_vit.serving import export as export_module
    from keras_vit.serving.forward import tensorflow_forward
    from keras_vit.serving.options import ServingOptions

    # The check runs in a process of its own, which tests/serving waits for.
    monkeypatch.setattr(export_module, "check_saved_model", lambda *_: None)
    model = with_head(folder)
    images = images_for(model)
    loaded = tf.saved_model.load(str(keras_vit.export(model, tmp_path, attention=True)))
    logits = loaded.signatures["tensors"](tensors=tf.constant(images))["logits"].numpy()
    # The graph before it was written; that of `predict` rounds two heads' mean otherwise.
    functions, _ = tensorflow_forward(model, ServingOptions())
    specification = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    graph = tf.function(functions["logits"], input_signature=[specification], autograph=False)
    np.testing.assert_array_equal(logits, graph(images).numpy())
    assert_close(logits, model.predict_on_batch(images), ROUNDING)


def test_features_of_every_kind_are_those_of_its_blocks(folder):
    model = keras_vit.from_pretrained(folder)
    config, images = model.config, images_for(keras_vit.from_pretrained(folder))
    tokens = model.feature_extractor((0, -1), normalize=False)(images)
    grids = model.feature_extractor((0, -1), "grid", normalize=False)(images)
    height, width = config.grid
    for name, index in (("block_0", 0), ("block_1", 1)):
        block = model.get_layer(f"encoderblock_{index}")
        expected = keras.Model(model.input, block.output)(images)
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (tokens[name], expected)))
        patches = keras.ops.convert_to_numpy(expected)[:, config.num_leading_tokens :]
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(grids[name]),
            patches.reshape(3, height, width, config.hidden_size),
        )
    normalized = model.feature_extractor(layout="grid")(images)["block_1"]
    assert normalized.shape == (3, height, width, config.hidden_size)


def test_attention_analyses_take_every_kind(folder):
    model = with_head(folder)
    config, images = model.config, images_for(with_head(folder))
    grid, num_tokens = config.grid, np.prod(config.grid) + config.num_leading_tokens
    for weights in model.attention_weights(images):
        assert weights.shape == (3, config.num_heads, num_tokens, num_tokens)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    rollout = analysis.attention_rollout(model, images)
    assert rollout.shape == (3, *grid)
    assert np.all(np.isfinite(rollout))
    assert np.all(rollout >= 0)
    distance = analysis.attention_distance(model, images)
    assert distance.shape == (config.depth, 3, config.num_heads)
    assert np.all(distance > 0)
    found = analysis.analyze(model, images)
    np.testing.assert_array_equal(found.rollout, rollout)
    assert analysis.grad_cam(model, images).shape == (3, *grid)
    assert analysis.position_similarity(model).shape == (*grid, *grid)
