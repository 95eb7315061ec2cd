"""`model.quantize("int8")` of the models that classify."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data.catalog import fashion_mnist
from keras_vit.layers.lora import adaptable_layers, adapters_of
from keras_vit.training.tuning import merge_lora, set_tune
from tests import tiny
from tests.models.test_models import BIT, HYBRID, images_for, random_weights

NAME = "fashion_mnist/ViT-mini_4"


def num_bytes(variables):
    return sum(keras.ops.convert_to_numpy(v).nbytes for v in variables)


def predict(model, images):
    return np.asarray(model.predict_on_batch(images))


def arrays(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


@pytest.fixture(scope="module")
def pictures():
    """400 test images as the model takes them, and their labels, or None without the set."""
    folder = fashion_mnist.PACKAGE_FOLDER
    if not (folder / "t10k-images-idx3-ubyte.gz").is_file():
        rng = np.random.default_rng(0)
        blocks = rng.integers(0, 256, (400, 7, 7, 1)).repeat(4, 1).repeat(4, 2)
        return (blocks.repeat(3, -1) / 127.5 - 1).astype(np.float32), None
    images = fashion_mnist.read_idx(folder / "t10k-images-idx3-ubyte.gz", 0x803)[:400]
    labels = fashion_mnist.read_idx(folder / "t10k-labels-idx1-ubyte.gz", 0x801)[:400]
    images = np.reshape(images, (400, 28, 28, 1)).repeat(3, -1) / np.float32(127.5) - 1
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def quantised():
    model = keras_vit.from_pretrained(NAME)
    model.quantize("int8")
    return model


def test_a_trained_model_keeps_its_answers_in_a_quarter_of_the_bytes(quantised, pictures):
    images, labels = pictures
    model = keras_vit.from_pretrained(NAME)
    expected, found = predict(model, images), predict(quantised, images)
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    if labels is not None:
        accuracies = [(logits.argmax(1) == labels).mean() for logits in (expected, found)]
        assert accuracies[0] > 0.88
        assert abs(accuracies[1] - accuracies[0]) <= 0.01
    kernels = [v for v in quantised.weights if v.path.endswith("kernel")]
    assert [v.path for v in kernels if v.dtype != "int8"] == ["embedding/kernel"]
    of_blocks = [
        [v for v in m.weights if "/attention/" in v.path or "/mlp/" in v.path]
        for m in (model, quantised)
    ]
    # A byte for four, and a scale for each column of 96 or 192 numbers and a bias as before.
    assert 0.25 < num_bytes(of_blocks[1]) / num_bytes(of_blocks[0]) < 0.28
    assert num_bytes(quantised.weights) < 0.3 * num_bytes(model.weights)


@pytest.mark.parametrize(
    "options",
    [
        {"representation_size": 6},
        {"qk_norm": True, "qkv_bias": False},
        {"pooling": "attention", "class_token": False, "gated_mlp": True},
    ],
)
def test_a_file_gives_it_again_bit_for_bit(options, tmp_path):
    model = tiny.make_model(**options)
    model.quantize("int8")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    expected = predict(model, images)
    model.save(tmp_path / "model.keras")
    for load in (keras.models.load_model, keras_vit.from_pretrained):
        loaded = load(tmp_path / "model.keras")
        np.testing.assert_array_equal(predict(loaded, images), expected)
        for path, array in arrays(model).items():
            assert arrays(loaded)[path].dtype == array.dtype
            np.testing.assert_array_equal(arrays(loaded)[path], array, err_msg=path)
        assert not loaded.trainable_variables or load is keras_vit.from_pretrained


def test_a_clone_and_a_model_of_pixels_keep_the_bits(tmp_path):
    model = tiny.make_model()
    model.quantize("int8")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(clone, images), predict(model, images))
    pixels = keras_vit.include_preprocessing(model)
    pixels.save(tmp_path / "pixels.keras")
    bytes_ = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), np.uint8)
    for load in (keras.models.load_model, keras_vit.from_pretrained):
        again = load(tmp_path / "pixels.keras")
        if load is keras_vit.from_pretrained:  # which gives the model in it
            again = keras_vit.include_preprocessing(again)
        np.testing.assert_array_equal(predict(again, bytes_), predict(pixels, bytes_))


def test_keras_own_quantize_reaches_a_model_with_an_own_head(tmp_path):
    base = tiny.make_model()
    model = keras.Model(base.input, keras.layers.Dense(2, name="own")(base.layers[-2].output))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    # Keras warns of each layer that has none.
    with pytest.warns(UserWarning, match="does not have a `quantize`"):
        model.quantize("int8")
    assert sum(v.dtype == "int8" for v in model.weights) == 4 + 2 + 1
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(predict(again, images), predict(model, images))


def test_a_hybrid_keeps_its_resnet_in_floats():
    model = random_weights(keras_vit.models.HybridVisionTransformer(HYBRID))
    images = images_for(model)
    expected = predict(model, images)
    model.quantize("int8")
    floats = {v.path for v in model.weights if v.path.endswith("kernel") and v.dtype != "int8"}
    assert floats
    assert not any("encoderblock" in path or path.startswith("head") for path in floats)
    np.testing.assert_allclose(predict(model, images), expected, atol=0.05 * np.abs(expected).max())


def fit(model, **options):
    images = np.random.default_rng(1).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, **options)
    model.fit(images, np.array([0, 1, 2, 1]), epochs=2, verbose=0)
    return images


@pytest.mark.parametrize("way", ["enable_lora", "set_tune", "float_head"])
def test_adapters_alone_are_trained(way, tmp_path):
    model = tiny.make_model()
    model.quantize("int8")
    with pytest.raises(ValueError, match="trained through adapters. .*'encoderblock_0/attention'"):
        fit(model)
    if way == "float_head":
        model = tiny.make_model()
        model.quantize("int8", filters=lambda layer: layer.name != "head")
        assert model.get_layer("head").kernel.dtype == "float32"
    if way == "enable_lora":
        for layer in adaptable_layers(model):
            layer.enable_lora(2)
    else:
        set_tune(model, "lora:2")
    trained = {v.path for v in model.trainable_variables}
    heads = {"head/kernel", "head/bias"} if way == "float_head" else set()
    assert trained == {v.path for _, lora in adapters_of(model) for v in (lora.a, lora.b)} | heads
    before = arrays(model)
    images = fit(model)
    after = arrays(model)
    assert {path for path in after if not np.array_equal(before[path], after[path])} == trained
    expected = predict(model, images)
    model.save(tmp_path / "model.keras")
    merge_lora(model)
    saved = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(saved, images), predict(model, images))
    # A merged kernel is rounded to 8 bits again.
    np.testing.assert_allclose(predict(model, images), expected, atol=0.05)


def test_blocks_that_are_computed_again_learn_the_same():
    trained = []
    for remat in (False, True):
        model = tiny.make_model()
        model.quantize("int8")
        set_tune(model, "lora:2")
        for _, lora in adapters_of(model):
            lora.b.assign(np.full(lora.b.shape, 0.01))
            lora.a.assign(np.linspace(-1, 1, int(np.prod(lora.a.shape))).reshape(lora.a.shape))
        model.set_remat(remat)
        fit(model)
        trained.append(arrays(model))
    for path, array in trained[0].items():
        np.testing.assert_allclose(trained[1][path], array, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (lambda: random_weights(keras_vit.models.BiTResNet(BIT)), {}, NotImplementedError,
         "for models with encoder blocks.*which has none of them.*quantization='int8'"),
        (tiny.make_model, {"mode": "int4"}, NotImplementedError, "quantised to 'int8' .*'int4'"),
        (tiny.make_model, {"filters": "nothing"}, ValueError, "`filters` must leave a layer"),
        (lambda: tiny.make_model(dtype="mixed_float16"), {}, ValueError, "float16"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantised_is_refused_and_changes_nothing(make, arguments, error, message):
    model = make()
    before = arrays(model)
    with pytest.raises(error, match=message):
        model.quantize(**{"mode": "int8", **arguments})
    for path, array in arrays(model).items():
        np.testing.assert_array_equal(array, before[path])


def test_a_model_with_adapters_or_kernels_of_8_bits_is_refused():
    model = tiny.make_model()
    set_tune(model, "lora:2")
    with pytest.raises(ValueError, match="has no adapters. Received: .* has some; merge them"):
        model.quantize("int8")
    merge_lora(model).quantize("int8")
    with pytest.raises(ValueError, match="is not quantised .* which is"):
        model.quantize("int8")


def test_files_and_exports_of_floats_name_the_quantised_model(quantised, tmp_path):
    quantised.save(tmp_path / "model.keras")
    with pytest.raises(keras_vit.CheckpointError, match=r"formats hold floats.*model\.save"):
        keras_vit.save_pretrained(quantised, tmp_path / "model.safetensors")
    with pytest.raises(keras_vit.CheckpointError, match="holds a quantised model"):
        keras_vit.convert(tmp_path / "model.keras", tmp_path / "a.npz", format="vit_jax")
    with pytest.raises(ValueError, match="a quantised model is loaded with the sizes that it has"):
        keras_vit.from_pretrained(tmp_path / "model.keras", num_classes=2)
