"""Models whose height and width are free, against the same file loaded for each size."""

import pathlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import resize_rules
from keras_vit.analysis import (
    attention_distance,
    attention_rollout,
    grad_cam,
    position_similarity,
)
from keras_vit.checkpoints.positions import resize_positions
from keras_vit.layers import DynamicPositionEmbedding
from keras_vit.models.segmentation import SegmentationHead, SegmentationModel
from keras_vit.models.windows import windowed_features

TORCH = pathlib.Path(__file__).parents[1] / "reference" / "torch"
FOLDERS = {
    "hf_named/dinov2_registers": "bicubic_antialias",
    "hf_named/dinov2": "bicubic",
    "hf_named/siglip_vision": "bicubic",
    "hf_named/clip_vision": "bicubic",
    "hf_named/deit_distilled": "bicubic",
    "timm_named/vit_small_patch14_reg4_dinov2": "bicubic_antialias",
    "timm_named/deit3_small_patch16_224": "bicubic_antialias",
}
GRIDS = ((1, 2), (4, 4), (5, 3), (7, 9))
# The numbers are those of float64 matrices, rounded once; here they are computed in float32.
PARITY = 1e-5
ARCHITECTURE = {"patch_size": 4, "hidden_size": 32, "mlp_dim": 48, "num_heads": 2, "depth": 2}
KINDS = {
    "learned": {},
    "offset": {"position_resize": "bicubic_offset", "num_registers": 2},
    "registers_with_positions": {"num_registers": 2, "register_positions": True},
    "sincos2d": {"position_embedding": "sincos2d", "class_token": False, "pooling": "mean"},
    "sincos2d_mae": {"position_embedding": "sincos2d_mae", "pooling": "patch_mean"},
    "none": {"position_embedding": "none"},
}


def random_model(**fields):
    model = keras_vit.create_model(
        "ViT-Ti/16",
        **{
            "image_size": 16,
            "num_classes": 3,
            "dynamic_image_size": True,
            **ARCHITECTURE,
            **fields,
        },
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    return model


def images_of(height, width, channels=3):
    return np.random.default_rng(height + width).uniform(-1, 1, (2, height, width, channels))


def close(ours, theirs, assert_close):
    assert_close(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs), PARITY)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_answers_any_size_as_when_loaded_for_it(folder, assert_close):
    rule = FOLDERS[folder]
    model = keras_vit.from_pretrained(TORCH / folder, dynamic_image_size=True)
    assert model.input.shape[1:3] == (None, None)
    assert model.config.position_resize == rule
    for grid in GRIDS:
        size = tuple(np.multiply(grid, model.config.patch_size).tolist())
        fixed = keras_vit.from_pretrained(TORCH / folder, image_size=size)
        images = images_of(*size).astype("float32")
        close(model.predict_on_batch(images), fixed.predict_on_batch(images), assert_close)


@pytest.mark.parametrize("kind", KINDS)
def test_a_keras_file_answers_any_size_as_when_loaded_for_it(kind, tmp_path, assert_close):
    random_model(**KINDS[kind]).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    for grid in GRIDS:
        size = tuple(4 * side for side in grid)
        fixed = keras_vit.from_pretrained(
            tmp_path / "model.keras", image_size=size, dynamic_image_size=False
        )
        images = images_of(*size).astype("float32")
        expected = fixed.predict_on_batch(images)
        close(model(images), expected, assert_close)
        close(model.predict_on_batch(images), expected, assert_close)
        features = model.feature_extractor(blocks=(0, -1), layout="grid").predict_on_batch(images)
        for name, value in (
            fixed.feature_extractor((0, -1), "grid").predict_on_batch(images).items()
        ):
            assert value.shape == (2, *grid, 32)
            close(features[name], value, assert_close)


def test_the_keras_file_of_a_dynamic_model_is_bit_equal(tmp_path):
    model = random_model()
    model.save(tmp_path / "model.keras")
    for load in (keras.models.load_model, keras_vit.from_pretrained):
        loaded = load(tmp_path / "model.keras")
        assert loaded.config == model.config
        for size in ((16, 16), (8, 20)):
            images = images_of(*size).astype("float32")
            np.testing.assert_array_equal(
                loaded.predict_on_batch(images), model.predict_on_batch(images)
            )


def test_the_arrays_of_a_dynamic_model_are_written_as_they_came(tmp_path):
    source = TORCH / "timm_named" / "deit3_small_patch16_224"
    model = keras_vit.from_pretrained(source, dynamic_image_size=True, image_size=64)
    keras_vit.save_pretrained(model, tmp_path / "again")
    first, again = (keras_vit.from_pretrained(path) for path in (source, tmp_path / "again"))
    for ours, theirs in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("rule", resize_rules.RULES)
@pytest.mark.parametrize("new_grid", [(3, 5), (1, 8), (4, 3), (16, 9), (37, 37)])
def test_positions_in_the_graph_are_those_of_the_loader(rule, new_grid, assert_close):
    layer = DynamicPositionEmbedding((4, 3), num_leading=2, resize=rule)
    layer.build((None, None, 6), (None, None, None, 6))
    table = np.random.default_rng(0).normal(size=(1, 14, 6)).astype("float32")
    layer.embedding.assign(table)
    expected = resize_positions(table, (4, 3), new_grid, 2, rule) if new_grid != (4, 3) else table
    close(layer.positions(new_grid), expected, assert_close)


def test_positions_of_their_own_grid_are_not_resized():
    layer = DynamicPositionEmbedding((4, 3), resize="bicubic_offset")
    layer.build((None, None, 6), (None, None, None, 6))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer.positions((4, 3))),
        keras.ops.convert_to_numpy(layer.embedding),
    )


@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_dynamic_model_gives_its_numbers(jit, assert_close):
    model = random_model()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        specification = tf.TensorSpec((None, None, None, 3), tf.float32)
        compiled = tf.function(model, input_signature=[specification], jit_compile=jit)
    else:
        jax = pytest.importorskip("jax")
        compiled = jax.jit(model) if jit else model
    for size in ((16, 16), (8, 20), (32, 12)):
        images = images_of(*size).astype("float32")
        close(compiled(images), model(images), assert_close)


@pytest.mark.parametrize("size", [(17, 16), (16, 2), (0, 16)])
def test_images_that_patches_do_not_fill_are_refused(size):
    model = random_model()
    images = np.zeros((1, *size, 3), "float32")
    sentence = r"a height and width that patches of \(4, 4\) fill. Received: "
    for call in (model, model.predict_on_batch, model.predict):
        with pytest.raises(ValueError, match=sentence):
            call(images)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("jit", [False, True])
def test_images_that_patches_do_not_fill_are_refused_inside_a_graph(jit):
    import tensorflow as tf

    specification = tf.TensorSpec((None, None, None, 3), tf.float32)
    compiled = tf.function(random_model(), input_signature=[specification], jit_compile=jit)
    match = "reshape|Reshape" if jit else r"that patches of \(4, 4\) fill"
    for shape in ((4, 17, 16, 3), (1, 16, 15, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=match):
            compiled(tf.zeros(shape))


@pytest.mark.tensorflow_only
def test_a_dynamic_model_trains_on_images_of_several_sizes():
    model = random_model(dropout=0.1, stochastic_depth=0.1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("posembed_input").embedding.numpy()
    for size in ((16, 16), (8, 20), (24, 12), (16, 16)):
        assert np.all(np.isfinite(model.train_on_batch(images_of(*size), np.array([0, 1]))))
    assert np.abs(model.get_layer("posembed_input").embedding.numpy() - before).max() > 0


def test_analyses_take_images_of_any_size():
    model = random_model()
    images = images_of(8, 20).astype("float32")
    assert attention_rollout(model, images).shape == (2, 2, 5)
    assert attention_distance(model, images).shape == (2, 2, 2)
    assert grad_cam(model, images).shape == (2, 2, 5)
    assert position_similarity(model).shape == (4, 4, 4, 4)
    assert position_similarity(random_model(**KINDS["sincos2d"])).shape == (4, 4, 4, 4)
    assert [w.shape for w in model.attention_weights(images)] == [(2, 2, 11, 11)] * 2
    with pytest.raises(ValueError, match=r"`images` must be \(B, H, W, 3\)"):
        attention_rollout(model, images[..., :2])


def test_image_size_is_what_a_dynamic_model_prepares():
    source = TORCH / "hf_named" / "dinov2"
    first = keras_vit.from_pretrained(source, dynamic_image_size=True)
    model = keras_vit.from_pretrained(source, dynamic_image_size=True, image_size=(70, 42))
    assert model.preprocessing.image_size == (70, 42)
    assert model.config.image_size == first.config.image_size
    for ours, theirs in zip(model.weights, first.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(ValueError, match=r"do(es)? not divide \(71, 42\)"):
        keras_vit.from_pretrained(source, dynamic_image_size=True, image_size=(71, 42))


def test_dinov2s_own_files_are_resized_by_their_own_rule():
    from keras_vit.checkpoints.format import Architecture
    from keras_vit.checkpoints.formats.registry import FORMATS

    rule = FORMATS["timm"].resize_rule_of
    for registers, expected in ((0, "bicubic_offset"), (4, "bicubic_antialias")):
        architecture = Architecture("vit", {"num_registers": registers})
        assert rule(architecture, "dinov2") == rule(architecture, "dinov2_giant") == expected
        assert rule(architecture, "today") == "bicubic_antialias"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"position_embedding": "relative"}, "known for any grid"),
        ({"position_embedding": "learned2d"}, "known for any grid"),
        ({"position_location": "every_layer"}, "known for any grid"),
        (
            {"axial_attention": True, "class_token": False, "pooling": "mean"},
            "attend to all others",
        ),
        ({"position_resize": "nearest"}, "`position_resize` must be one of"),
    ],
)
def test_what_has_no_rule_for_another_grid_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        random_model(**fields)


def test_hybrids_and_what_needs_one_size_are_refused():
    with pytest.raises(ValueError, match="patches are cut from the image"):
        keras_vit.create_model("R50+ViT-B/16", dynamic_image_size=True)
    with pytest.raises(ValueError, match="no field 'dynamic_image_size'"):
        keras_vit.create_model("BiT-R50x1", dynamic_image_size=True)
    model = random_model()
    with pytest.raises(ValueError, match="windows needs images of one size"):
        windowed_features(model, 2)
    with pytest.raises(ValueError, match="needs images of one size"):
        SegmentationModel(model, SegmentationHead(num_classes=2))
